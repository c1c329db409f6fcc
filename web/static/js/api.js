// The server: uploads and files by HTTP, everything live by one WebSocket that comes back by itself.

const AGAIN_MS = [250, 500, 1000, 2000, 4000];
const OVER = [4404, 1008]; // closed for good: no such session, or not allowed

export const fileUrl = (id, what, stamp = "") => `/api/sessions/${id}/${what}${stamp && `?v=${stamp}`}`;

async function checked(answer) {
  if (answer.ok) return answer;
  const about = await answer.json().catch(() => ({}));
  const { message = `the server answered ${answer.status}`, hint = "" } = about.error ?? {};
  throw new Error(hint ? `${message}; ${hint}` : message);
}

export async function upload(file) {
  const name = encodeURIComponent(file.name || "photo");
  const answer = await checked(await fetch(`/api/sessions?name=${name}`, { method: "POST", body: file }));
  return (await answer.json()).id;
}

export async function sessions() {
  return (await checked(await fetch("/api/sessions"))).json();
}

export async function forget(id) {
  await checked(await fetch(`/api/sessions/${id}`, { method: "DELETE" }));
}

export async function putMask(id, blob) {
  await checked(await fetch(fileUrl(id, "mask"), { method: "PUT", body: blob }));
}

// A picture that the server drew: {kind, …} and the bitmap, or null where nothing changed.
async function frameOf(buffer) {
  const length = new DataView(buffer).getUint32(0, true);
  const about = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  const rest = buffer.slice(4 + length);
  return { ...about, bitmap: rest.byteLength ? await createImageBitmap(new Blob([rest])) : null };
}

export class Live {
  // told(event), drawn(frame), linked(true | false | reason it is over)
  constructor(id, { told, drawn, linked }) {
    Object.assign(this, { id, told, drawn, linked, tries: 0, closed: false });
    this.connect();
  }

  connect() {
    this.socket = new WebSocket(`${location.origin.replace(/^http/, "ws")}/api/sessions/${this.id}/live`);
    this.socket.binaryType = "arraybuffer";
    this.socket.onopen = () => {
      this.tries = 0;
      this.linked(true);
    };
    this.socket.onmessage = async ({ data }) => {
      if (typeof data === "string") this.told(JSON.parse(data));
      else this.drawn(await frameOf(data));
    };
    this.socket.onclose = ({ code, reason }) => {
      if (this.closed) return;
      this.linked(OVER.includes(code) ? reason || "this photo is no longer there" : false);
      if (OVER.includes(code)) return;
      setTimeout(() => this.closed || this.connect(), AGAIN_MS[Math.min(this.tries++, AGAIN_MS.length - 1)]);
    };
  }

  // Asks for something; false where nobody listens.
  ask(message) {
    if (this.socket.readyState !== WebSocket.OPEN) return false;
    this.socket.send(JSON.stringify(message));
    return true;
  }

  close() {
    this.closed = true;
    this.socket.close();
  }
}
