// What people read.

import { LOST } from "./state.js";

const px = (x) => `${x.toFixed(1)} px`;

// A sentence begins with a capital, but not where its first word is a file's name.
export const capital = (words) => words.replace(/^[a-z]+(?=[ ,])/, (word) => word[0].toUpperCase() + word.slice(1));

// A verdict without what the command line is told to try.
const plainly = (verdict) => verdict.replace(/ \([^)]*\)?.*/s, "").replace(/[.;,]$/, "");

const names = (numbers) => (numbers.length === 1 ? `Point ${numbers[0]} was` : `Points ${numbers.join(", ")} were`);

// How a drag ended, and what to do about it.
export function ending(drag) {
  const left = Math.max(...drag.handles.map((h) => h.distance_end));
  const lost = drag.handles.flatMap((h, i) => (h.confidence <= LOST ? [i + 1] : []));
  switch (drag.outcome) {
    case "REACHED":
      return `Every point arrived, in ${drag.steps} steps.`;
    case "STALLED":
      return `It came no nearer: ${px(left)} are left. The model cannot follow further; a shorter way or a wider painted region may.`;
    case "LOST_HANDLE":
      return `${lost.length ? names(lost) : "A point was"} lost: what lay there is nowhere to be found. The best step before is shown; try a shorter way.`;
    case "MAX_STEPS":
      return `It took all its ${drag.steps} steps, and ${px(left)} are left. Run again to go on.`;
    case "CANCELLED":
      return `Stopped at step ${drag.steps}; the best so far is shown, ${px(left)} are left. Run again to go on.`;
    default:
      return drag.outcome;
  }
}

// What to know before the first drag.
export function found({ faces, inverted, aligned }) {
  const words = [];
  if ((faces ?? []).length > 1 && aligned.detector !== "whole") words.push(`${faces.length} faces were found. Another is chosen with the tool Face, or under Face and likeness.`);
  if (inverted.verdict && !inverted.verdict.startsWith("inside")) words.push(`The photo lies ${plainly(inverted.verdict)}.`);
  return words.join(" ");
}

const TASKS = {
  open: "Looking for faces",
  align: "Cutting out the face",
  further: "Keeping this edit, for the next face",
  invert: "Learning the face",
  run: "Dragging",
  place: "Putting it into the photo",
  back: "Putting it into the photo",
  save: "Saving in full size",
  film: "Making the film",
  report: "Drawing the report",
};

export function busyWords({ task, before }) {
  if (task !== "waiting") return TASKS[task] ?? task;
  return before === 1 ? "Waiting: one task is before this one" : `Waiting: ${before} tasks are before this one`;
}

export function timeLeft(seconds) {
  if (seconds < 1) return "";
  return seconds < 100 ? `at most ${Math.ceil(seconds)} s left` : `at most ${Math.ceil(seconds / 60)} min left`;
}

export function likeness({ metrics, verdict, loss }) {
  const figures = [
    metrics.lpips == null ? null : `LPIPS ${metrics.lpips} (${loss.replace("lpips-", "")})`,
    metrics.psnr == null ? null : `PSNR ${metrics.psnr} dB`,
    metrics.ssim == null ? null : `SSIM ${metrics.ssim}`,
  ].filter(Boolean);
  return `Cut out (left) and as the model shows it. ${figures.join(", ")}. ${verdict ? `It lies ${plainly(verdict)}.` : ""}`;
}

export const HINTS = {
  point: "Move or remove that point.",
  "mask-empty": "Paint what may move, or press All.",
};

export const KEYS = [
  ["Space", "run, or stop"],
  ["Ctrl Z, Ctrl Y", "undo, redo: points and paint first, then edits"],
  ["Delete", "remove the selected point"],
  ["Arrows", "move the selected point's target; with Shift its handle"],
  ["[ and ]", "a smaller, a larger brush"],
  ["V, P, E, H, F", "tools: points, paint, erase, pan, face"],
  ["B (hold)", "see the photo as it was"],
  ["S", "split: before on the left, after on the right"],
  ["+, −, 0", "zoom in, out, to fit"],
  ["Wheel, two fingers", "zoom and pan"],
];
