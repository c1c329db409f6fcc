// The controls beside the photo: listens once, then shows what the editor knows; `update` can be called at any time.

import { fileUrl, forget, sessions } from "./api.js";
import { busyWords, KEYS, likeness, timeLeft } from "./words.js";

const $ = (id) => document.getElementById(id);

const PAINTS = ["paint", "erase"];

export function panel(editor) {
  listen(editor);
  for (const [keys, does] of KEYS) $("keys").append(element("dt", {}, keys), element("dd", {}, does));
  return () => update(editor);
}

export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

function listen(editor) {
  const press = (id, does) => $(id).addEventListener("click", does);
  $("file").addEventListener("change", ({ target }) => {
    if (target.files[0]) editor.upload(target.files[0]);
    target.value = "";
  });
  press("run", () => editor.run());
  press("box", () => chooseTool(editor, "box"));
  press("undo", () => editor.undo());
  press("redo", () => editor.redo());
  press("clear-points", () => editor.clear());
  press("mask-all", () => editor.changeMask((mask) => mask.all()));
  // What is not shown is not understood: these two show the paint.
  for (const what of ["none", "invert"]) {
    press(`mask-${what}`, () => {
      editor.changeMask((mask) => mask[what]());
      if (!PAINTS.includes(editor.tool)) chooseTool(editor, "paint");
    });
  }
  press("moves-to-points", () => editor.movesToPoints());
  for (const id of ["whole", "whole-too"]) press(id, () => editor.ask({ do: "align", whole: true }));
  press("report", () => editor.ask({ do: "report" }));
  press("save", () => editor.ask({ do: "save", kind: $("kind").value }));
  press("film", () => editor.ask({ do: "film", kind: $("film-kind").value }));
  press("help-open", () => $("help").showModal());
  press("split", () => toggleSplit(editor));
  for (const [type, before] of [["pointerdown", true], ["pointerup", false], ["pointerleave", false], ["blur", false]]) {
    $("before").addEventListener(type, () => showBefore(editor, before));
  }
  for (const type of ["keydown", "keyup"]) {
    $("before").addEventListener(type, ({ key }) => {
      if (key === " " || key === "Enter") showBefore(editor, type === "keydown");
    });
  }
  $("snap").addEventListener("change", ({ target }) => {
    editor.snaps = target.checked;
    editor.changed();
  });
  for (const radio of document.getElementsByName("tool")) {
    radio.addEventListener("change", () => chooseTool(editor, radio.value));
  }
  $("brush-size").addEventListener("input", ({ target }) => setBrush(editor, { size: Number(target.value) }));
  $("brush-soft").addEventListener("input", ({ target }) => setBrush(editor, { soft: Number(target.value) }));
  for (const type of ["input", "change"]) {
    const done = type === "change";
    $("step").addEventListener(type, ({ target }) => {
      editor.at({ step: Number(target.value), strength: editor.state.drag.strength }, done);
    });
    $("strength").addEventListener(type, ({ target }) => {
      editor.at({ step: editor.state.drag.chosen, strength: Number(target.value) }, done);
    });
  }
}

export function chooseTool(editor, tool) {
  editor.tool = tool;
  editor.showsMask = true;
  document.querySelector(`input[name="tool"][value="${tool}"]`).checked = true;
  if (PAINTS.includes(tool)) $("mask-part").open = true;
  $("canvas").dataset.tool = tool;
  editor.changed();
}

export function setBrush(editor, change) {
  const brush = { ...editor.brush, ...change };
  editor.brush = { ...brush, size: Math.min(Math.max(Math.round(brush.size), 4), largestBrush(editor)) };
  editor.changed();
}

const largestBrush = (editor) => Math.max(64, Math.round(Math.max(...(editor.state?.size ?? [0])) / 3));

export function showBefore(editor, before) {
  editor.before = before;
  editor.changed();
}

export function toggleSplit(editor) {
  editor.splitAt = editor.splitAt === null ? 0.5 : null;
  editor.changed();
}

function update(editor) {
  const { state, busy, progress } = editor;
  document.body.classList.toggle("no-photo", !editor.id);
  document.title = state?.name ? `${state.name} – realdrag` : "realdrag";
  $("name").textContent = state?.name ?? "";
  put("run-words", busy ? "Stop" : editor.mustLearn() ? "Learn the face" : "Run");
  $("run").disabled = !busy && !editor.canRun();
  $("undo").disabled = !editor.canUndo();
  $("redo").disabled = !editor.canRedo();
  put("status", busy ? [busyWords(busy), editor.note].filter(Boolean).join(". ") : editor.status);
  const alert = editor.offline ? "The server does not answer. Trying again…" : editor.alert;
  put("alert", editor.id ? alert : "");
  put("drop-alert", editor.id ? "" : alert || editor.status);
  $("faceless").hidden = !state?.faces || Boolean(state.aligned || busy);
  $("progress").hidden = !busy || !["open", "align", "invert", "waiting", "film"].includes(busy.task);
  const left = progress ? timeLeft(progress.left) : "";
  $("progress-words").textContent = busy ? [busyWords(busy), left].filter(Boolean).join(", ") : "";
  if (progress) $("progress-bar").value = progress.done / Math.max(progress.total, 1);
  else $("progress-bar").removeAttribute("value");
  $("masked").hidden = !editor.mask?.on;
  $("brush-size").max = largestBrush(editor);
  for (const key of ["size", "soft"]) {
    $(`brush-${key}`).value = editor.brush[key];
    $(`brush-${key}-out`).textContent = key === "size" ? `${editor.brush.size} px` : `${Math.round(editor.brush.soft * 100)} %`;
  }
  pointList(editor);
  moveSliders(editor);
  result(editor);
  face(editor);
  $("split").setAttribute("aria-pressed", String(editor.splitAt !== null));
}

// Writes only what changed, so that a screen reader says it once.
function put(id, words) {
  if ($(id).textContent !== words) $(id).textContent = words;
}

function pointList(editor) {
  const { points } = editor.draft;
  $("no-points").hidden = points.length > 0;
  $("clear-points").hidden = points.length < 2;
  const list = $("points");
  while (list.children.length > points.length) list.lastChild.remove();
  while (list.children.length < points.length) list.append(pointRow(editor, list.children.length));
  points.forEach((point, i) => {
    const row = list.children[i];
    row.classList.toggle("selected", point.id === editor.selected);
    row.classList.toggle("lost", editor.lost.has(point.id));
    row.title = editor.lost.has(point.id) ? "This point was lost" : "";
    for (const input of row.querySelectorAll("input")) {
      if (input !== document.activeElement) input.value = point[input.dataset.key].toFixed(editor.state.size[0] < 1000 ? 1 : 0);
    }
  });
}

const FIELDS = [["x", "handle, x"], ["y", "handle, y"], ["tx", "target, x"], ["ty", "target, y"]];

// A point by its numbers, for those who do not drag.
function pointRow(editor, i) {
  const point = () => editor.draft.points[i];
  const fields = FIELDS.map(([key, words]) =>
    element("input", {
      type: "number", step: "0.5", "data-key": key, "aria-label": `Point ${i + 1}, ${words}`,
      onfocus: () => {
        editor.selected = point().id;
        editor.changed();
      },
      onchange: ({ target }) => {
        if (target.value === "" || !Number.isFinite(Number(target.value))) return;
        editor.remember();
        editor.place(point().id, { [key]: Number(target.value) });
      },
    }),
  );
  const gone = element("button", { type: "button", "aria-label": `Remove point ${i + 1}`, onclick: () => editor.remove(point().id) }, "×");
  return element("li", {}, element("b", {}, String(i + 1)), ...fields.slice(0, 2), "→", ...fields.slice(2), gone);
}

function moveSliders(editor) {
  const { state, draft } = editor;
  if (!state?.moves) return;
  const there = Boolean(state.aligned?.landmarks);
  $("no-moves").hidden = there || !state.aligned;
  $("moves").hidden = !there;
  if (!$("moves").children.length) {
    for (const move of state.moves) {
      const slider = element("input", {
        type: "range", id: `move-${move.name}`, "data-move": move.name,
        min: move.low, max: move.high, value: 0, step: move.unit === "degrees" ? 0.5 : 0.05,
        list: "zero",
        oninput: ({ target }) => {
          if (!target.dataset.held) editor.remember(); // once, however far it is moved
          target.dataset.held = "held";
          editor.setMove(move.name, Number(target.value));
        },
        onchange: ({ target }) => delete target.dataset.held,
      });
      const about = { class: "slider", for: slider.id, title: `${move.does}; ${move.unit}` };
      const does = element("small", { class: "quiet" }, move.does);
      $("moves").append(element("label", about, `${move.name} `, element("output"), slider, does));
    }
  }
  for (const slider of document.querySelectorAll("[data-move]")) {
    const number = draft.moves[slider.dataset.move] ?? 0;
    slider.value = number;
    slider.previousElementSibling.textContent = number ? String(number) : "";
  }
  $("moves-to-points").hidden = !editor.ghosts.length;
}

function result(editor) {
  const { state, files, wanted, busy } = editor;
  const drag = state?.drag;
  $("no-drag").hidden = Boolean(drag);
  const { current, count } = state?.history ?? { count: 0 };
  put("edits", count ? (current ? `Edit ${current} of ${count}` : `The photo as it was; ${count} to redo`) : "");
  $("dragged").hidden = !drag;
  if (!drag) return;
  // While a slider is held, or its place is not reached yet, it is the user's.
  const [step, strength] = [wanted?.step ?? drag.chosen, wanted?.strength ?? drag.strength];
  $("step").max = drag.steps;
  [$("step").value, $("strength").value] = [step, strength];
  $("step-out").textContent = `${step} of ${drag.steps}${step === drag.best ? ", the best" : ""}`;
  $("strength-out").textContent = Number(strength).toFixed(2);
  for (const id of ["save", "film"]) $(id).disabled = Boolean(busy);
  $("saved").hidden = !files.edited;
  if (files.edited) {
    const { kind, bytes, outside, changed } = files.edited;
    const base = baseName(state);
    fileLink($("saved-file"), editor, `edited-${kind}`, `${base}-edited.${{ jpeg: "jpg", tiff: "tif" }[kind] ?? kind}`);
    fileLink($("saved-recipe"), editor, "recipe", `${base}.toml`);
    const same = outside === 0 ? "all else is the same to the bit" : `the encoding changes the rest by at most ${outside} of 255`;
    $("saved-words").textContent = `${(bytes / 1e6).toFixed(1)} MB; ${changed ? same : "nothing changed"}.`;
  }
  $("film-file").hidden = !files.film;
  if (files.film) fileLink($("film-file"), editor, `film-${files.film.kind}`, `${baseName(state)}.${files.film.kind}`);
}

const baseName = ({ name }) => (name ?? "photo").replace(/\.[^.]*$/, "").replace(/-edited$/, "");

function fileLink(anchor, editor, what, name) {
  anchor.href = fileUrl(editor.id, what, editor.files.stamp);
  anchor.download = name;
}

function face(editor) {
  const { state, files } = editor;
  if (!state) return;
  const faces = state.faces ?? [];
  for (const option of $("film-kind").options) option.hidden = option.disabled = !state.films.includes(option.value);
  const box = JSON.stringify(state.aligned?.box);
  const chosen = faces.findIndex((one) => JSON.stringify(one) === box);
  const stamp = `${editor.id} ${faces.length} ${chosen}`;
  if ($("faces").dataset.stamp !== stamp) { // a button that is made anew while it is pressed is not pressed
    $("faces").dataset.stamp = stamp;
    const buttons = faces.map((_, i) => {
      const choose = () => editor.ask({ do: "align", face: i + 1 });
      const about = { type: "button", "aria-pressed": String(i === chosen), onclick: choose };
      return element("button", about, `Face ${i + 1}`);
    });
    $("faces").replaceChildren(...(faces.length > 1 ? buttons : []));
  }
  if (state.kind && $("kind").dataset.of !== editor.id) {
    $("kind").dataset.of = editor.id;
    $("kind").value = state.kind; // as the photo is
  }
  $("likeness").hidden = $("report").hidden = !state.inverted;
  if (state.inverted) {
    const shown = editor.id + JSON.stringify(state.inverted.metrics) + box;
    if ($("likeness").dataset.stamp !== shown) {
      $("likeness").dataset.stamp = shown;
      for (const what of ["aligned", "inverted"]) $(what).src = fileUrl(editor.id, what, Date.now());
      $("likeness-words").textContent = likeness(state.inverted);
    }
  }
  $("report-file").hidden = !files.report;
  if (files.report) $("report-file").href = fileUrl(editor.id, "report", files.stamp);
}

const dated = (seconds) => new Date(seconds * 1000).toLocaleString([], { dateStyle: "short", timeStyle: "short" });

// The photos opened before, on the empty page.
export async function recent(editor) {
  const found = await sessions().catch(() => []);
  $("recent").hidden = !found.length;
  $("recent").querySelector("ul").replaceChildren(
    ...found.map(({ id, name, used, edited }) =>
      element(
        "li", {},
        element("a", { href: `#${id}`, title: name }, element("img", { src: fileUrl(id, "view"), alt: "", loading: "lazy" }), name,
          element("small", { class: "quiet" }, `${edited ? "edited, " : ""}${dated(used)}`)),
        element("button", {
          type: "button", "aria-label": `Forget ${name}`, title: "Forget this photo and its edits",
          onclick: async () => {
            if (!confirm(`Forget ${name} and its edits? What was saved elsewhere stays.`)) return;
            await forget(id).catch((error) => { editor.alert = error.message; });
            recent(editor);
          },
        }, "×"),
      ),
    ),
  );
}
