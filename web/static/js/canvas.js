// Draws the stage from what the editor knows; called once a frame where something changed.

import { LOST } from "./state.js";
import { toScreen } from "./view.js";

const HANDLE = "#ff503c";
const TARGET = "#5aa2ff";
const NOW = "#ffdc28";

// Draws `picture` so that it covers the box of photo pixels.
function cover(context, view, picture, [x, y, width, height]) {
  const [left, top] = toScreen(view, x - 0.5, y - 0.5);
  context.imageSmoothingEnabled = view.k * (width / picture.width) < 6;
  context.imageSmoothingQuality = "medium"; // a sharper kernel rings where a picture ends, or is transparent
  context.drawImage(picture, left, top, width * view.k, height * view.k);
}

// Draws a picture of the crop where the crop lies in the photo.
function coverCrop(context, view, picture, { to_photo: m, size }) {
  context.save();
  context.translate(view.x + view.k / 2, view.y + view.k / 2);
  context.scale(view.k, view.k);
  context.transform(m[0][0], m[1][0], m[0][1], m[1][1], m[0][2], m[1][2]);
  context.drawImage(picture, -0.5, -0.5, size, size);
  context.restore();
}

function cropPath(context, view, { to_photo: m, size }) {
  const corners = [[-0.5, -0.5], [size - 0.5, -0.5], [size - 0.5, size - 0.5], [-0.5, size - 0.5]];
  context.beginPath();
  for (const [x, y] of corners) {
    context.lineTo(...toScreen(view, m[0][0] * x + m[0][1] * y + m[0][2], m[1][0] * x + m[1][1] * y + m[1][2]));
  }
  context.closePath();
}

function outlined(context, colour, width, dash = []) {
  context.setLineDash(dash);
  context.lineWidth = width + 2;
  context.strokeStyle = "rgb(0 0 0 / 0.65)";
  context.stroke();
  context.lineWidth = width;
  context.strokeStyle = colour;
  context.stroke();
  context.setLineDash([]);
}

function written(context, words, x, y) {
  context.font = "600 13px system-ui, sans-serif";
  context.lineWidth = 3;
  context.strokeStyle = "rgb(0 0 0 / 0.8)";
  context.strokeText(words, x, y);
  context.fillStyle = "#fff";
  context.fillText(words, x, y);
}

function arrow(context, [x, y], [tx, ty], { label, selected, lost, ghost }) {
  const length = Math.hypot(tx - x, ty - y);
  context.globalAlpha = ghost ? 0.75 : 1;
  if (length > 1) {
    const [ux, uy] = [(tx - x) / length, (ty - y) / length];
    context.beginPath();
    context.moveTo(x, y);
    context.lineTo(tx, ty);
    outlined(context, TARGET, 2, ghost ? [4, 4] : []);
    const barb = Math.min(10, length / 2);
    context.beginPath();
    context.moveTo(tx - ux * barb - uy * barb * 0.6, ty - uy * barb + ux * barb * 0.6);
    context.lineTo(tx, ty);
    context.lineTo(tx - ux * barb + uy * barb * 0.6, ty - uy * barb - ux * barb * 0.6);
    outlined(context, TARGET, 2.5);
  }
  context.beginPath();
  context.arc(x, y, selected ? 7 : 5, 0, 2 * Math.PI);
  outlined(context, HANDLE, selected ? 3.5 : 2.5, lost ? [3, 3] : []);
  if (label) written(context, label, x + 9, y - 8);
  context.globalAlpha = 1;
}

function dot(context, [x, y], colour, radius) {
  context.beginPath();
  context.arc(x, y, radius, 0, 2 * Math.PI);
  context.fillStyle = colour;
  context.fill();
  context.lineWidth = 1;
  context.strokeStyle = "#000";
  context.stroke();
}

// The photo, and over it what changed; before: the photo alone.
function picture(context, editor, before) {
  const { view, state, pictures, frame } = editor;
  cover(context, view, pictures.view, [0, 0, ...state.size]);
  if (before) return;
  if (frame) {
    if (frame.bitmap && state.aligned) coverCrop(context, view, frame.bitmap, state.aligned);
  } else if (pictures.after) {
    const s = state.size[0] / state.view[0];
    const t = state.size[1] / state.view[1];
    const [x, y, width, height] = pictures.after.rect;
    const [left, top] = toScreen(view, x * s - 0.5, y * t - 0.5);
    context.imageSmoothingEnabled = view.k * s < 6;
    context.drawImage(pictures.after.bitmap, left, top, width * s * view.k, height * t * view.k);
  }
}

function split(context, editor, across, down) {
  const x = Math.round(editor.splitAt * across);
  context.save();
  context.beginPath();
  context.rect(0, 0, x, down);
  context.clip();
  picture(context, editor, true);
  context.restore();
  context.fillStyle = "#fff";
  context.fillRect(x - 1, 0, 2, down);
  dot(context, [x, down / 2], "#fff", 9);
}

// Darkens what may not move.
function maskOver(context, { view, mask, state }) {
  context.save();
  context.globalCompositeOperation = "multiply";
  context.globalAlpha = 0.62;
  cover(context, view, mask.canvas, [0, 0, ...state.size]);
  context.restore();
}

export function draw(context, editor) {
  const [across, down] = editor.canvasSize;
  const { view, state, draft, ghosts, frame, tool } = editor;
  context.setTransform(devicePixelRatio, 0, 0, devicePixelRatio, 0, 0);
  context.clearRect(0, 0, across, down);
  if (!state?.size || !editor.pictures.view) return;
  picture(context, editor, editor.before);
  if (editor.splitAt !== null && !editor.before) split(context, editor, across, down);
  if (editor.before) return;
  const painting = tool === "paint" || tool === "erase";
  if (editor.mask?.on && painting && editor.showsMask && !editor.busy) maskOver(context, editor);
  if (state.aligned) {
    cropPath(context, view, state.aligned);
    outlined(context, "rgb(255 255 255 / 0.7)", 1, [5, 5]);
  }
  if (tool === "box" || ((state.faces ?? []).length > 1 && !state.drag && !draft.points.length)) {
    (state.faces ?? []).forEach(([x0, y0, x1, y1], i) => {
      const [left, top] = toScreen(view, x0 - 0.5, y0 - 0.5);
      context.beginPath();
      context.rect(left, top, (x1 - x0 + 1) * view.k, (y1 - y0 + 1) * view.k);
      outlined(context, NOW, 1.5);
      written(context, String(i + 1), left + 5, top + 16);
    });
  }
  if (editor.box) {
    const [x0, y0, x1, y1] = editor.box;
    context.beginPath();
    context.rect(...toScreen(view, x0, y0), (x1 - x0) * view.k, (y1 - y0) * view.k);
    outlined(context, HANDLE, 2);
  }
  if (editor.snaps && tool === "point" && state.aligned?.landmarks && !editor.busy) {
    for (const [x, y] of state.aligned.landmarks) dot(context, toScreen(view, x, y), "rgb(255 255 255 / 0.6)", 2);
  }
  for (const [x, y, tx, ty] of ghosts) arrow(context, toScreen(view, x, y), toScreen(view, tx, ty), { ghost: true });
  draft.points.forEach((p, i) => {
    const about = { label: String(i + 1), selected: p.id === editor.selected, lost: editor.lost.has(p.id) };
    arrow(context, toScreen(view, p.x, p.y), toScreen(view, p.tx, p.ty), about);
  });
  (frame?.places ?? []).forEach(([x, y], i) => {
    const lost = (frame.confidences?.[i] ?? 1) <= LOST;
    dot(context, toScreen(view, x, y), lost ? "#fff" : NOW, 4.5);
    if (lost) {
      context.fillStyle = HANDLE;
      context.font = "700 14px system-ui, sans-serif";
      const [sx, sy] = toScreen(view, x, y);
      context.fillText("?", sx + 7, sy + 5);
    }
  });
  if (painting && editor.cursor) {
    context.beginPath();
    context.arc(...editor.cursor, (editor.brush.size / 2) * view.k, 0, 2 * Math.PI);
    outlined(context, "#fff", 1.5);
  }
}
