// Where each screen is: `#/`, `#/replicas`, `#/execution/ID`, and of another tenant `#/tenant/NAME/execution/ID`.

/** The place of an execution. */
export function pathOf({ execution_id: id, tenant }, service) {
  const ofTenant = tenant && tenant !== service.tenant ? `/tenant/${encodeURIComponent(tenant)}` : "";
  return `#${ofTenant}/execution/${encodeURIComponent(id)}`;
}

/** The screen at a place: `{screen, id, tenant}`. */
export function screenAt(hash) {
  const found = /^#(?:\/tenant\/([^/]+))?\/execution\/([^/]+)$/.exec(hash);
  if (found) return { screen: "execution", tenant: found[1] ? decoded(found[1]) : "", id: decoded(found[2]) };
  return { screen: hash === "#/replicas" ? "replicas" : "list", tenant: "", id: "" };
}

function decoded(text) {
  try { return decodeURIComponent(text); } catch { return text; }
}
