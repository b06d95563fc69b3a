// Calls the service: requests are JSON, responses are protobuf, streams are messages with their length before them.

import { schema } from "./schema.js";
import { decoder } from "./wire.js";

const PACKAGE = "runner_service.v1.";
const decode = decoder(schema);

/** A refusal. `code` is the name of a gRPC status. */
export class CallError extends Error {
  constructor(code, message) {
    super(message);
    this.code = code;
  }
}

/** Calls act for this tenant; empty for the caller's own. */
const acting = { tenant: "" };

export function actFor(tenant) {
  acting.tenant = tenant;
}

async function post(path, body, { signal, tenant = acting.tenant } = {}) {
  const response = await fetch(path, {
    method: "POST", body: JSON.stringify(body), signal, credentials: "same-origin", cache: "no-store",
    headers: { "content-type": "application/json", ...(tenant ? { "x-runner-tenant": tenant } : {}) },
  });
  if (!response.ok) {
    const error = await response.json().catch(() => ({}));
    throw new CallError(error.code ?? String(response.status), error.message ?? response.statusText);
  }
  return response;
}

/** Calls a unary rpc, and returns its response. */
export async function call(rpc, request = {}, options = {}) {
  const response = await post(`/api/${rpc}`, request, options);
  return decode(`${PACKAGE}${rpc}Response`, new Uint8Array(await response.arrayBuffer()));
}

/** Exchanges a token for a cookie. */
export async function login(token) {
  await post("/login", { token }, { tenant: "" });
}

/** Returns what the page needs to know of the service and of the caller. */
export async function about() {
  return (await post("/about", {}, { tenant: "" })).json();
}

/** Returns what each replica does; for operators. */
export async function replicas() {
  return (await post("/replicas", {}, { tenant: "" })).json();
}

/** Returns what tenants have used in the last 24 hours. */
export async function usage() {
  return (await post("/usage", {}, { tenant: "" })).json();
}

/** Calls a streaming rpc; `onmessage` gets each response until the stream ends or breaks. */
async function stream(rpc, request, signal, onmessage) {
  const reader = (await post(`/api/${rpc}`, request, { signal })).body.getReader();
  let buffer = new Uint8Array();
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const joined = new Uint8Array(buffer.length + value.length);
    joined.set(buffer);
    joined.set(value, buffer.length);
    let position = 0;
    while (joined.length - position >= 4) {
      const length = new DataView(joined.buffer, position).getUint32(0), end = position + 4 + length;
      if (joined.length < end) break;
      onmessage(decode(`${PACKAGE}${rpc}Response`, joined.subarray(position + 4, end)));
      position = end;
    }
    buffer = joined.slice(position);
  }
}

/** Calls a streaming rpc again and again until it is over; `request()` and `isOver()` are asked each time. */
export async function streamForever(rpc, request, signal, onmessage, { isOver = () => false, onstate = () => {} } = {}) {
  while (!signal.aborted && !isOver()) {
    try {
      await stream(rpc, request(), signal, (message) => { onstate(""); onmessage(message); });
    } catch (error) {
      if (signal.aborted) return;
      if (error instanceof CallError && ["NOT_FOUND", "PERMISSION_DENIED", "UNAUTHENTICATED", "INVALID_ARGUMENT"].includes(error.code)) {
        onstate(error.message, error.code);
        return;
      }
      onstate("The service does not answer; trying again.");
    }
    if (!signal.aborted && !isOver()) await new Promise((resolve) => setTimeout(resolve, 500));
  }
}
