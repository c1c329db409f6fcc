// Keys: what they do stands in words.js.

import { chooseTool, setBrush, showBefore, toggleSplit } from "./panel.js";
import { zoomed } from "./view.js";

const TOOLS = { v: "point", p: "paint", e: "erase", h: "pan", f: "box" };
const NUDGES = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

const writing = (target) => target.closest("input[type=number], select, dialog");

export function listen(editor) {
  addEventListener("keydown", (event) => {
    if (!editor.state || document.querySelector("dialog[open]")) return;
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    if (event.ctrlKey || event.metaKey) {
      if (writing(event.target)) return;
      if (key === "z") (event.shiftKey ? editor.redo() : editor.undo());
      else if (key === "y") editor.redo();
      else return;
      event.preventDefault();
    } else if (!writing(event.target) && !event.altKey && pressed(editor, key, event)) {
      event.preventDefault();
    }
  });
  addEventListener("keyup", (event) => {
    if (event.key.toLowerCase() === "b") showBefore(editor, false);
  });
  addEventListener("blur", () => showBefore(editor, false));
  // After a press with the mouse the keys are the photo's again: Space shall run, not press that button once more.
  addEventListener("click", ({ detail, target }) => {
    if (detail && target.closest?.("#panel button, #panel summary, #panel [type=radio], #panel [type=checkbox]")) {
      document.getElementById("canvas").focus({ preventScroll: true });
    }
  });
}

// Whether the key means something here.
function pressed(editor, key, event) {
  const onButton = event.target.closest("button, a, summary, [type=checkbox]");
  if (key === " ") {
    if (onButton) return false;
    editor.run();
  } else if (key === "Delete" || key === "Backspace") {
    if (editor.selected === null) return false;
    editor.remove(editor.selected);
  } else if (key in NUDGES) {
    const point = editor.draft.points.find((p) => p.id === editor.selected);
    if (!point || ["radio", "range"].includes(event.target.type)) return false;
    const [dx, dy] = NUDGES[key];
    editor.remember();
    editor.place(point.id, event.shiftKey ? { x: point.x + dx, y: point.y + dy } : { tx: point.tx + dx, ty: point.ty + dy });
  } else if (key === "[" || key === "]") {
    setBrush(editor, { size: editor.brush.size * (key === "]" ? 1.15 : 1 / 1.15) });
  } else if (key in TOOLS) {
    chooseTool(editor, TOOLS[key]);
  } else if (key === "b") {
    showBefore(editor, true);
  } else if (key === "s") {
    toggleSplit(editor);
  } else if (key === "+" || key === "=" || key === "-") {
    zoom(editor, key === "-" ? 1 / 1.25 : 1.25);
  } else if (key === "0") {
    editor.fit();
    editor.changed();
  } else {
    return false;
  }
  return true;
}

export function zoom(editor, factor) {
  const [across, down] = editor.canvasSize;
  editor.view = zoomed(editor.view, factor, across / 2, down / 2);
  editor.changed();
}
