// Mouse, pen and fingers on the canvas: one finger uses the tool, two zoom and pan.

import { moved, toPhoto, toScreen, zoomed } from "./view.js";

const NEAR = 14; // pixels of the screen within which a point is meant
const LEAST_BOX = 8; // photo pixels

export function listen(canvas, editor) {
  const down = new Map(); // pointer → where it is
  let gesture = null; // what the one pointer does: {move(x, y, event), end(x, y)}
  let pinch = null;

  const at = (event) => {
    const box = canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };

  canvas.addEventListener("pointerdown", (event) => {
    if (!editor.pictures.view) return;
    canvas.setPointerCapture(event.pointerId);
    down.set(event.pointerId, at(event));
    if (down.size === 2) {
      gesture?.cancel?.();
      gesture = null;
      pinch = spread(down);
    } else if (down.size === 1) {
      gesture = begun(editor, event, ...at(event));
    }
    editor.changed();
  });

  canvas.addEventListener("pointermove", (event) => {
    const [x, y] = at(event);
    editor.cursor = event.pointerType === "touch" ? null : [x, y];
    if (down.has(event.pointerId)) {
      down.set(event.pointerId, [x, y]);
      if (pinch && down.size === 2) {
        const now = spread(down);
        editor.view = zoomed(moved(editor.view, now.x - pinch.x, now.y - pinch.y), now.apart / pinch.apart, now.x, now.y);
        pinch = now;
      } else {
        gesture?.move(x, y, event);
      }
    }
    editor.changed();
  });

  const ended = (event) => {
    down.delete(event.pointerId);
    if (down.size < 2) pinch = null;
    if (down.size === 0) {
      if (event.type === "pointerup") gesture?.end?.(...at(event));
      else gesture?.cancel?.();
      gesture = null;
    }
    editor.changed();
  };
  canvas.addEventListener("pointerup", ended);
  canvas.addEventListener("pointercancel", ended);
  canvas.addEventListener("pointerleave", () => {
    editor.cursor = null;
    editor.changed();
  });

  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    const [x, y] = at(event);
    const step = event.deltaMode === 1 ? event.deltaY * 20 : event.deltaY;
    editor.view = zoomed(editor.view, Math.exp(-step / 500), x, y);
    editor.changed();
  }, { passive: false });
}

function spread(down) {
  const [[x0, y0], [x1, y1]] = [...down.values()];
  return { x: (x0 + x1) / 2, y: (y0 + y1) / 2, apart: Math.max(Math.hypot(x1 - x0, y1 - y0), 1) };
}

function begun(editor, event, x, y) {
  if (event.button === 1 || editor.tool === "pan") return panned(editor, x, y);
  if (event.button !== 0) return null;
  if (editor.splitAt !== null && Math.abs(x - editor.splitAt * editor.canvasSize[0]) < NEAR) return splitMoved(editor);
  if (editor.tool === "box") return boxed(editor, x, y);
  if (editor.busy && editor.busy.task === "run") return panned(editor, x, y);
  return editor.tool === "point" ? pointed(editor, x, y) : painted(editor, event, x, y);
}

function panned(editor, x, y) {
  let last = [x, y];
  return {
    move(nx, ny) {
      editor.view = moved(editor.view, nx - last[0], ny - last[1]);
      last = [nx, ny];
    },
  };
}

function splitMoved(editor) {
  return {
    move(x) {
      editor.splitAt = Math.min(Math.max(x / editor.canvasSize[0], 0), 1);
    },
  };
}

const within = ([width, height], [x, y]) => [
  Math.min(Math.max(x, 0), width - 1), Math.min(Math.max(y, 0), height - 1),
];

// A place of the photo in pixels of the crop, and back.
function toCrop({ to_photo: m }, [x, y]) {
  const [a, b, c, d] = [m[0][0], m[0][1], m[1][0], m[1][1]];
  const [u, v, det] = [x - m[0][2], y - m[1][2], a * d - b * c];
  return [(d * u - b * v) / det, (a * v - c * u) / det];
}

const inside = (aligned, place) => Boolean(aligned) && toCrop(aligned, place).every((value) => value >= 0 && value <= aligned.size - 1);

function clamped(aligned, place) {
  if (inside(aligned, place)) return place;
  const [x, y] = toCrop(aligned, place).map((value) => Math.min(Math.max(value, 0), aligned.size - 1));
  const m = aligned.to_photo;
  return [m[0][0] * x + m[0][1] * y + m[0][2], m[1][0] * x + m[1][1] * y + m[1][2]];
}

// A press on a target or a handle moves it; elsewhere it places a point whose target is where the pointer is let go.
function pointed(editor, x, y) {
  const spot = (p, key) => (key === "t" ? toScreen(editor.view, p.tx, p.ty) : toScreen(editor.view, p.x, p.y));
  let best = null;
  for (const p of editor.draft.points) {
    for (const key of ["t", "h"]) {
      const [sx, sy] = spot(p, key);
      const distance = Math.hypot(sx - x, sy - y);
      if (distance < (best?.distance ?? NEAR)) best = { id: p.id, key, distance };
    }
  }
  const start = [x, y];
  const before = editor.draft;
  let far = false;
  if (!best) {
    const place = toPhoto(editor.view, x, y);
    if (within(editor.state.size, place).some((value, i) => Math.abs(value - place[i]) > 0.5)) return panned(editor, x, y);
    if (!inside(editor.state.aligned, place)) {
      if (editor.state.aligned) editor.alert = "Points lie within the dashed frame: that is what the model sees.";
      return panned(editor, x, y);
    }
    const { id, offset } = editor.addPoint(...place);
    best = { id, key: "t", isNew: true, offset };
  } else {
    editor.selected = best.id;
    editor.remember();
  }
  return {
    move(nx, ny) {
      far ||= Math.hypot(nx - start[0], ny - start[1]) > 3;
      if (!far) return;
      const [dx, dy] = best.offset ?? [0, 0]; // a handle that snapped takes its target along
      const [ax, ay] = toPhoto(editor.view, nx, ny);
      const [px, py] = within(editor.state.size, clamped(editor.state.aligned, [ax + dx, ay + dy]));
      editor.place(best.id, best.key === "t" ? { tx: px, ty: py } : { x: px, y: py });
    },
    end() {
      if (!far && !best.isNew) editor.undos.past.pop(); // a press that only selects
    },
    cancel() {
      editor.undos.past.pop();
      editor.put(before);
    },
  };
}

function painted(editor, event, x, y) {
  const paints = editor.tool === "paint";
  const scale = editor.state.view[0] / editor.state.size[0];
  const toView = (sx, sy) => toPhoto(editor.view, sx, sy).map((value) => (value + 0.5) * scale);
  const radius = (e) => Math.max((editor.brush.size / 2) * scale * (e.pointerType === "pen" ? 0.5 + e.pressure / 2 : 1), 1);
  editor.remember(true);
  const before = editor.undos.past.at(-1);
  editor.showsMask = true;
  editor.mask.begin(paints);
  let last = toView(x, y);
  editor.mask.touch(...last, radius(event), editor.brush.soft, paints);
  return {
    move(nx, ny, e) {
      const now = toView(nx, ny);
      editor.mask.stroke(last, now, radius(e), editor.brush.soft, paints);
      last = now;
    },
    end() {
      editor.keepDraft();
    },
    cancel() {
      editor.undos.past.pop();
      editor.mask.restore(before.mask);
    },
  };
}

function boxed(editor, x, y) {
  const start = toPhoto(editor.view, x, y);
  return {
    move(nx, ny) {
      const now = toPhoto(editor.view, nx, ny);
      editor.box = [
        Math.min(start[0], now[0]), Math.min(start[1], now[1]), Math.max(start[0], now[0]), Math.max(start[1], now[1]),
      ];
    },
    end() {
      const [px, py] = start;
      const box = editor.box;
      editor.box = null;
      const chosen = (editor.state.faces ?? []).findIndex(([x0, y0, x1, y1]) => px >= x0 && px <= x1 && py >= y0 && py <= y1);
      if (box && box[2] - box[0] >= LEAST_BOX && box[3] - box[1] >= LEAST_BOX) {
        editor.ask({ do: "align", box: box.map((value) => Math.round(value * 10) / 10) });
      } else if (chosen >= 0) {
        editor.ask({ do: "align", face: chosen + 1 });
      }
    },
    cancel() {
      editor.box = null;
    },
  };
}
