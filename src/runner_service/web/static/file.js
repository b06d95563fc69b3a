// An execution in a file of its own: everything is in the page, nothing is fetched.

import { h } from "./dom.js";
import { Run } from "./run.js";
import { ExecutionView } from "./view.js";
import { decoder } from "./wire.js";

function data(id) {
  return document.getElementById(id).textContent;
}

function base64Bytes(text) {
  return Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
}

export function showFile() {
  const decode = decoder(JSON.parse(data("schema"))), run = new Run();
  const { title, pages } = JSON.parse(data("run"));
  for (const page of pages) {
    for (const event of decode("runner_service.v1.ExecuteAgentResponse", base64Bytes(page)).events) run.apply(event);
  }
  document.title = title;
  document.body.append(h("header", {}, h("h1", {}, title)), new ExecutionView({ run }).element);
}
