// The one holder of state: what the server said, what is drawn, and how it is looked at. Others read it, call its
// verbs, and draw again when it says that something changed.

import { fileUrl, forget, Live, putMask, upload } from "./api.js";
import { Mask, trimmed } from "./mask.js";
import {
  afterDrag, arrows, EMPTY, fromArrows, hasMoves, snapped, Undos, withMove, without, withPlaces, withPoint,
} from "./state.js";
import { fitted, fittedTo } from "./view.js";
import { capital, ending, found, HINTS } from "./words.js";

const STOP_SHARE = 1 / 256; // of the crop's side: a handle this near has arrived
const DRAFT_MS = 400; // after the last change the draft is kept on the server
const LOOK_MS = 60; // between pictures that a held slider asks for

const same = (a, b) => JSON.stringify(a ?? null) === JSON.stringify(b ?? null);

async function bitmap(url) {
  const answer = await fetch(url);
  return answer.ok ? createImageBitmap(await answer.blob()) : null;
}

export class Editor {
  // changed(): something is to be drawn anew. left(): no photo is open any more.
  constructor(changed, left) {
    this.changed = changed;
    this.left = left;
    this.tool = "point";
    this.snaps = false;
    this.showsMask = false;
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
      status: "", alert: "", note: "", files: {}, maskSent: 0, masksDone: Promise.resolve(), wanted: null, offline: false, asked: false,
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
    if (typeof how === "string") this.leave(how);
    else this.offline = !how;
    this.changed();
  }

  // Back to the empty page, which says why.
  leave(words) {
    this.reset();
    history.replaceState(null, "", location.pathname);
    this.alert = words;
    this.left();
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
      said: () => { this.note = capital(event.words); },
      failed: () => {
        this.wanted = null;
        this.asked = false;
        const hint = HINTS[event.error.code] ?? event.error.hint;
        const words = [event.error.message, hint].filter(Boolean).map(capital).join(". ");
        if (this.state?.view) this.alert = words;
        else this.unopened(words);
      },
      stopped: () => { this.status = "Stopped."; },
      opens: () => this.open(event.id),
      arrows: () => { this.ghosts = event.pairs; },
      ready: () => { this.files = { ...this.files, [event.file]: event, stamp: Date.now() }; },
      gone: () => this.linked("This photo was removed."),
    };
    heard[event.event]?.();
    this.changed();
  }

  // What was uploaded is no photo.
  unopened(words) {
    forget(this.id).catch(() => {});
    this.leave(words);
  }

  async stated(state, busy) {
    const [last, first] = [this.state, !this.state?.view];
    // A run that failed left the drag before it.
    const finished = this.asked && !busy && state.drag && !same(last?.drag, state.drag);
    if (!busy) this.asked = false;
    [this.state, this.busy, this.progress] = [state, busy, busy ? this.progress : null];
    if (first && state.view) await this.firstState(state);
    if (!busy && !finished) this.note = "";
    if (!busy && !last?.inverted && state.inverted) this.status = found(state);
    if (!busy && this.wanted?.strength === state.drag?.strength) this.wanted = null;
    const [now, then] = [state.history.current, last?.history.current ?? 0];
    if (finished) this.dragged(state.drag, now);
    else if (now < then) this.redraw(this.drafts.get(then)?.before);
    else if (now > then && last) this.redraw(this.drafts.get(now)?.after);
    if (state.aligned && !same(last?.aligned, state.aligned)) {
      if (last?.aligned) this.redraw(EMPTY); // on another face
      if (last?.aligned || (state.faces ?? []).length < 2) this.look(state.aligned);
    }
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
    // Pictures are decoded while events pass them by.
    if ((frame.kind === "looked") === Boolean(this.busy)) return;
    this.frame = frame;
    this.changed();
  }

  dragged(drag, number) {
    const stop = this.state.aligned ? this.cropSide() * STOP_SHARE : 0;
    const after = afterDrag(this.draft, drag, stop);
    this.lost = new Set(after.lost);
    this.drafts.set(number, { before: this.draft, after: after.draft });
    this.draft = after.draft;
    this.ghosts = [];
    this.undos.clear();
    this.status = [ending(drag), this.note].filter(Boolean).join(" ");
    this.keepDraft();
  }

  redraw(draft) {
    if (!draft) return;
    this.draft = draft;
    this.keepDraft();
    this.askArrows();
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
    this.showsMask = false; // the result is to be seen
    if (this.mustLearn()) return this.ask({ do: "invert" });
    try {
      await this.sendMask();
    } catch (error) {
      this.alert = error.message;
      return this.changed();
    }
    this.asked = this.live.ask({ do: "drag", points: arrows(this.draft), moves: this.draft.moves, masked: this.mask.on });
    this.changed();
  }

  canRun() {
    if (this.offline) return false;
    return this.mustLearn() || Boolean(this.state?.inverted && (arrows(this.draft).length || hasMoves(this.draft)));
  }

  // The inversion was stopped.
  mustLearn() {
    return Boolean(this.state?.aligned && !this.state.inverted);
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
    if (message.do === "film") this.files = { ...this.files, film: null };
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
    const place = this.snaps ? snapped(x, y, this.state.aligned?.landmarks) : [x, y];
    const [draft, id] = withPoint(this.draft, ...place);
    this.selected = id;
    this.put(draft);
    return { id, offset: [place[0] - x, place[1] - y] };
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
    this.showsMask = true;
    this.keepDraft();
    this.changed();
  }

  // Points and paint first, then edits.

  undo() {
    if (!this.canUndo()) return;
    if (!this.restore(this.undos.undo(this.now(this.undos.past)))) this.ask({ do: "undo" });
  }

  redo() {
    if (!this.canRedo()) return;
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
