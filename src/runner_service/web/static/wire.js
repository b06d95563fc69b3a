// Decodes protobuf messages by the schema that the service derives from its protos.

/** Returns a function `decode(messageName, bytes)`. 64-bit integers become numbers, enums their names. */
export function decoder(schema) {
  const textDecoder = new TextDecoder();

  function decode(name, bytes, position = 0, end = bytes.length) {
    const fields = schema.messages[name], message = {};
    for (const field of Object.values(fields)) {
      if (field.map) message[field.name] = {};
      else if (field.repeated) message[field.name] = [];
    }
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    while (position < end) {
      let key;
      [key, position] = varint(bytes, position);
      const field = fields[Math.floor(key / 8)], type = key % 8;
      let start = position, stop = position, number = 0;
      if (type === 0) [number, position] = varint(bytes, position);
      else if (type === 1) { number = view.getFloat64(position, true); position += 8; }
      else if (type === 5) { number = view.getFloat32(position, true); position += 4; }
      else if (type === 2) {
        let length;
        [length, start] = varint(bytes, position);
        stop = position = start + length;
      } else throw new Error(`wire type ${type}`);
      if (!field) continue; // of a newer service
      if (type === 2 && field.repeated && packable(field)) {
        while (start < stop) { [number, start] = varint(bytes, start); message[field.name].push(scalar(field, number)); }
        continue;
      }
      const value = type === 2 ? delimited(field, bytes, start, stop) : scalar(field, number);
      if (field.map) message[field.name][value.key ?? ""] = value.value;
      else if (field.repeated) message[field.name].push(value);
      else message[field.name] = value;
    }
    return message;
  }

  function packable(field) {
    return field.type !== "string" && field.type !== "bytes" && !schema.messages[field.type];
  }

  function scalar(field, number) {
    if (field.type === "bool") return number !== 0;
    return schema.enums[field.type]?.[number] ?? number;
  }

  function delimited(field, bytes, start, stop) {
    if (field.type === "string") return textDecoder.decode(bytes.subarray(start, stop));
    if (field.type === "bytes") return bytes.slice(start, stop);
    const message = decode(field.type, bytes, start, stop);
    return plain(field.type, message);
  }

  return (name, bytes) => decode(name, bytes);
}

/** Timestamps and durations become seconds, Structs become plain objects. */
function plain(type, message) {
  switch (type) {
    case "google.protobuf.Timestamp":
    case "google.protobuf.Duration":
      return (message.seconds ?? 0) + (message.nanos ?? 0) / 1e9;
    case "google.protobuf.Struct":
      return message.fields;
    case "google.protobuf.ListValue":
      return message.values;
    case "google.protobuf.Value":
      return "null_value" in message ? null : Object.values(message)[0] ?? null;
  }
  return message;
}

function varint(bytes, position) {
  let result = 0, factor = 1;
  for (let at = position; at < position + 10; at++) {
    const byte = bytes[at];
    if (byte === undefined) throw new Error("a message is cut off");
    result += (byte & 127) * factor;
    if (byte < 128) return [at === position + 9 ? negative(bytes, position) : result, at + 1];
    factor *= 128;
  }
  throw new Error("a number is too long");
}

function negative(bytes, position) {
  let result = 0n;
  for (let at = 9; at >= 0; at--) result = (result << 7n) | BigInt(bytes[position + at] & 127);
  return Number(BigInt.asIntN(64, result));
}
