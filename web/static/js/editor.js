// The one holder of state: what the server said, what is drawn, and how it is looked at. Others read it, call its
// verbs, and draw again when it says that something changed.

import { fileUrl, Live, putMask, upload } from "./api.js";
import { Mask, trimmed } from "./mask.js";
import {
  afterDrag, arrows, EMPTY, fromArrows, hasMoves, snapped, Undos, withMove, without, withPlaces, withPoint,
} from "./state.js";
import { fitted, fittedTo } from "./view.js";
import { ending, found, HINTS } from "./words.js";

const STOP_SHARE = 1 / 256; // of the crop's side: a handle this near has arrived
const DRAFT_MS = 400; // after the last change the draft is kept on the server
const LOOK_MS = 60; // between pictures that a held slider asks for

const same = (a, b) => JSON.stringify(a ?? null) === JSON.stringify(b ?? null);

async function bitmap(url) {
  const answer = await fetch(url);
  return answer.ok ? createImageBitmap(await answer.blob()) : null;
}

export class Editor {
  constructor(changed) {
    this.changed = changed;
    this.tool = "point";
    this.snaps = false;
    this.brush = { size: 40, soft: 0.5 };
    this.canvasSize = [1, 1];
    this.view = { k: 1, x: 0, y: 0 };
    this.splitAt = null;
    this.before = false;
    this.reset();
  }

  reset() {
    this.live?.close();
    clearTimeout(this.draftTimer);
    Object.assign(this, {
      id: null, live: null, state: null, busy: null, progress: null, draft: EMPTY, ghosts: [], mask: null,
      selected: null, lost: new Set(), pictures: {}, frame: null, undos: new Undos(), box: null, cursor: null,
      status: "", alert: "", note: "", files: {}, maskSent: 0, masksDone: Promise.resolve(), wanted: null,
      drafts: new Map(), // number of an edit → what was drawn before it, and what was left after it
    });
  }

  // Photos.

  async upload(file) {
    this.reset();
    this.status = "Uploading…";
    this.changed();
    try {
      await this.open(await upload(file));
    } catch (error) {
      this.status = "";
      this.alert = error.message;
    }
    this.changed();
  }

  async open(id) {
    this.reset();
    this.id = id;
    if (location.hash.slice(1) !== id) history.pushState(null, "", `#${id}`);
    this.live = new Live(id, {
      told: (event) => this.id === id && this.told(event),
      drawn: (frame) => this.id === id && this.drawn(frame),
      linked: (how) => this.id === id && this.linked(how),
    });
    this.changed();
  }

  linked(how) {
    if (typeof how === "string") {
      this.reset();
      history.replaceState(null, "", location.pathname);
      this.alert = how;
    } else {
      this.alert = how ? "" : "The server does not answer. Trying again…";
    }
    this.changed();
  }

  // What the server says.

  told(event) {
    const heard = {
      state: () => this.stated(event.state, event.busy),
      busy: () => {
        this.busy = { task: event.task, before: event.before };
        this.progress = null;
        this.status = this.alert = this.note = "";
      },
      progress: () => { this.progress = event; },
      said: () => { this.note = event.words; },
      failed: () => {
        this.wanted = null;
        this.alert = [event.error.message, HINTS[event.error.code] ?? event.error.hint].filter(Boolean).join(". ");
      },
      stopped: () => { this.status = "Stopped."; },
      faceless: () => { this.alert = `No face was found. ${HINTS["no-face"]}`; },
      arrows: () => { this.ghosts = event.pairs; },
      ready: () => { this.files = { ...this.files, [event.file]: event, stamp: Date.now() }; },
      gone: () => this.linked("This photo was removed."),
    };
    heard[event.event]?.();
    this.changed();
  }

  async stated(state, busy) {
    const [last, first] = [this.state, !this.state?.view];
    // A run that failed left the drag before it.
    const finished = this.busy?.task === "run" && !busy && state.drag && !same(last?.drag, state.drag);
    [this.state, this.busy, this.progress] = [state, busy, busy ? this.progress : null];
    if (first && state.view) await this.firstState(state);
    if (!busy && !finished) this.note = "";
    if (!busy && !last?.inverted && state.inverted) this.status = found(state);
    if (!busy && this.wanted?.strength === state.drag?.strength) this.wanted = null;
    const [now, then] = [state.history.current, last?.history.current ?? 0];
    if (finished) this.dragged(state.drag, now);
    else if (now < then) this.draft = this.drafts.get(then)?.before ?? this.draft;
    else if (now > then && last) this.draft = this.drafts.get(now)?.after ?? this.draft;
    if (!last?.aligned && state.aligned) this.look(state.aligned);
    const { id } = this;
    const stamp = state.after?.stamp ?? null;
    if ((this.pictures.after?.stamp ?? null) !== stamp) {
      const changed = stamp && (await bitmap(fileUrl(id, "after", stamp)));
      if (this.id !== id || (this.state.after?.stamp ?? null) !== stamp) return; // a later state has another
      this.pictures.after = changed && { bitmap: changed, rect: state.after.rect, stamp };
      this.files = {};
    }
    if (!this.busy) this.frame = null;
    this.changed();
  }

  async firstState(state) {
    const { points = [], moves = {}, masked = false } = state.draft ?? {};
    this.draft = { points: fromArrows(points), moves };
    this.mask = new Mask(...state.view);
    this.brush.size = Math.round(Math.max(...state.size) / 16);
    this.fit();
    this.pictures.view = await bitmap(fileUrl(this.id, "view"));
    if (masked) await this.mask.load(fileUrl(this.id, "mask", Date.now()));
    this.maskSent = this.mask.stamp;
    this.askArrows();
  }

  drawn(frame) {
    if (frame.kind === "looked" && this.busy) return;
    this.frame = frame;
    this.changed();
  }

  dragged(drag, number) {
    const stop = this.state.aligned ? this.cropSide() * STOP_SHARE : 0;
    const before = arrows(this.draft).length ? this.draft.points.filter((p) => p.x !== p.tx || p.y !== p.ty) : [];
    this.lost = new Set(before.filter((_, i) => drag.handles[i]?.confidence <= 0.1).map((p) => p.id));
    const after = afterDrag(this.draft, drag, stop);
    this.drafts.set(number, { before: this.draft, after });
    this.draft = after;
    this.ghosts = [];
    this.undos.clear();
    this.status = [ending(drag), this.note].filter(Boolean).join(" ");
    this.keepDraft();
  }

  cropSide() {
    const m = this.state.aligned.to_photo;
    return this.state.aligned.size * Math.hypot(m[0][0], m[1][0]);
  }

  // What is asked of the server.

  async run() {
    if (this.busy) return this.stop();
    if (!this.canRun()) return;
    this.status = this.alert = "";
    try {
      await this.sendMask();
    } catch (error) {
      this.alert = error.message;
      return this.changed();
    }
    this.live.ask({ do: "drag", points: arrows(this.draft), moves: this.draft.moves, masked: this.mask.on });
  }

  canRun() {
    return Boolean(this.state?.inverted && (arrows(this.draft).length || hasMoves(this.draft)));
  }

  stop() {
    this.live?.ask({ do: "stop" });
  }

  // The slider is held: a quick picture. With `done` it is let go: the photo itself.
  at(place, done) {
    clearTimeout(this.lookTimer);
    this.wanted = place;
    if (done) return this.live.ask({ do: "place", ...place });
    const wait = Math.max(0, LOOK_MS - (performance.now() - (this.lookedAt ?? 0)));
    this.lookTimer = setTimeout(() => {
      this.lookedAt = performance.now();
      this.live.ask({ do: "look", ...place });
    }, wait);
  }

  ask(message) {
    this.status = this.alert = "";
    this.live?.ask(message);
    this.changed();
  }

  askArrows() {
    if (hasMoves(this.draft)) this.live.ask({ do: "arrows", moves: this.draft.moves });
    else this.ghosts = [];
  }

  sendMask() {
    if (this.mask.on && this.maskSent !== this.mask.stamp) {
      const [id, stamp] = [this.id, this.mask.stamp];
      this.masksDone = this.masksDone
        .catch(() => {})
        .then(async () => putMask(id, await this.mask.png()))
        .then(() => { this.maskSent = stamp; });
    }
    return this.masksDone;
  }

  keepDraft() {
    clearTimeout(this.draftTimer);
    this.draftTimer = setTimeout(async () => {
      await this.sendMask().catch(() => {});
      this.live?.ask({ do: "draft", points: arrows(this.draft), moves: this.draft.moves, masked: this.mask?.on ?? false });
    }, DRAFT_MS);
  }

  // What is drawn. Each change is one entry of the undo list.

  remember(withMask = false) {
    this.undos.push({ draft: this.draft, mask: withMask ? this.mask.snapshot() : null });
    trimmed(this.undos.past);
  }

  put(draft) {
    this.draft = draft;
    this.alert = "";
    this.keepDraft();
    this.changed();
  }

  addPoint(x, y) {
    this.remember();
    const [draft, id] = withPoint(this.draft, ...(this.snaps ? snapped(x, y, this.state.aligned?.landmarks) : [x, y]));
    this.selected = id;
    this.put(draft);
    return id;
  }

  place(id, places) {
    this.lost.delete(id);
    this.put(withPlaces(this.draft, id, places));
  }

  remove(id) {
    this.remember();
    if (this.selected === id) this.selected = null;
    this.put(without(this.draft, id));
  }

  clear() {
    this.remember();
    this.put({ ...this.draft, points: [] });
  }

  setMove(name, number) {
    this.put(withMove(this.draft, name, number));
    this.askArrows();
  }

  movesToPoints() {
    this.remember();
    this.put({ points: [...this.draft.points, ...fromArrows(this.ghosts)], moves: {} });
    this.askArrows();
  }

  changeMask(change) {
    this.remember(true);
    change(this.mask);
    this.keepDraft();
    this.changed();
  }

  // Points and paint first, then edits.

  undo() {
    if (this.busy) return;
    if (!this.restore(this.undos.undo(this.now(this.undos.past)))) this.ask({ do: "undo" });
  }

  redo() {
    if (this.busy) return;
    if (!this.restore(this.undos.redo(this.now(this.undos.future)))) this.ask({ do: "redo" });
  }

  // What there is now, to come back to: the mask only where the step changes it.
  now(list) {
    return { draft: this.draft, mask: list.at(-1)?.mask ? this.mask.snapshot() : null };
  }

  restore(entry) {
    if (!entry) return false;
    if (entry.mask) this.mask.restore(entry.mask);
    this.put(entry.draft);
    this.askArrows();
    return true;
  }

  canUndo() {
    return !this.busy && Boolean(this.undos.past.length || this.state?.history.current);
  }

  canRedo() {
    const { current = 0, count = 0 } = this.state?.history ?? {};
    return !this.busy && Boolean(this.undos.future.length || current < count);
  }

  // How it is looked at.

  fit() {
    if (this.state?.size) this.view = fitted(this.state.size, this.canvasSize);
  }

  // A small face in a large photo is what the user came for.
  look(aligned) {
    const m = aligned.to_photo;
    const at = (x, y) => [m[0][0] * x + m[0][1] * y + m[0][2], m[1][0] * x + m[1][1] * y + m[1][2]];
    const corners = [at(0, 0), at(aligned.size, 0), at(aligned.size, aligned.size), at(0, aligned.size)];
    const [xs, ys] = [corners.map((c) => c[0]), corners.map((c) => c[1])];
    const box = [Math.min(...xs), Math.min(...ys), Math.max(...xs), Math.max(...ys)];
    this.view = fittedTo(box, this.canvasSize);
  }
}
