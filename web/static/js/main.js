// Ties the parts together.

import { draw } from "./canvas.js";
import { Editor } from "./editor.js";
import * as keys from "./keys.js";
import { panel, recent } from "./panel.js";
import * as pointer from "./pointer.js";

const canvas = document.getElementById("canvas");
const context = canvas.getContext("2d");

let due = false;
export const editor = new Editor(() => {
  if (due) return;
  due = true;
  requestAnimationFrame(() => {
    due = false;
    draw(context, editor);
    update();
  });
}, () => recent(editor));
const update = panel(editor);
pointer.listen(canvas, editor);
keys.listen(editor);

new ResizeObserver(() => {
  const { clientWidth, clientHeight } = canvas;
  const first = editor.canvasSize[0] === 1;
  editor.canvasSize = [clientWidth, clientHeight];
  [canvas.width, canvas.height] = [clientWidth * devicePixelRatio, clientHeight * devicePixelRatio];
  if (first) editor.fit();
  editor.changed();
}).observe(canvas);

for (const [id, factor] of [["zoom-in", 1.25], ["zoom-out", 1 / 1.25]]) {
  document.getElementById(id).addEventListener("click", () => keys.zoom(editor, factor));
}
document.getElementById("zoom-fit").addEventListener("click", () => {
  editor.fit();
  editor.changed();
});

addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("dropping");
});
addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) document.body.classList.remove("dropping");
});
addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dropping");
  if (event.dataTransfer.files[0]) editor.upload(event.dataTransfer.files[0]);
});

// The address says which photo is open, so that a reload and the browser's Back come to it.
function follow() {
  const id = location.hash.slice(1);
  if (id && id !== editor.id) editor.open(id);
  else if (!id) {
    editor.reset();
    recent(editor);
    editor.changed();
  }
}
addEventListener("hashchange", follow);
addEventListener("popstate", follow);
follow();
editor.changed();
