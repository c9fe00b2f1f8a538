import { isObject, objectMember, type JsonObject, type Message } from './envelope.ts';
import { applyEdits, memberRange, removeMembers, type Edit, type Range } from './json-scanner.ts';
import { clientCapabilitiesKey } from './revision.ts';

/**
 * Takes out of a request what it declares of extensions and capabilities that may not pass, so that a server does not
 * answer in one that its client could not go on with: `_meta` of a modern request, `capabilities` of a legacy
 * `initialize`.
 * @param allowed extensions that pass
 * @param refused capabilities that do not
 */
export function declaredEdits(
  body: Buffer,
  message: Message,
  allowed: readonly string[],
  refused: readonly string[],
): Edit[] {
  const { params, paramsRange } = message;
  if (paramsRange === null) return [];
  const path = message.method === 'initialize' ? ['capabilities'] : ['_meta', clientCapabilitiesKey];
  let holder: JsonObject | undefined = params;
  for (const key of path) holder = holder === undefined ? undefined : objectMember(holder, key);
  if (holder === undefined) return [];
  const declared = holder;
  const hasRefused = refused.some((capability) => Object.hasOwn(declared, capability));
  if (!hasRefused && !hasOther(declared, allowed)) return [];
  let range: Range | undefined = paramsRange;
  for (const key of path) range = range === undefined ? undefined : memberRange(body, range, key);
  if (range === undefined) return [];
  if (!hasRefused) return extensionEdits(body, range, allowed);
  // One after the other: the first replaces the bytes of the second.
  const capabilities = body.subarray(range.start, range.end);
  const whole = (bytes: Buffer): Range => ({ start: 0, end: bytes.length });
  const kept = applyEdits(
    capabilities,
    removeMembers(capabilities, whole(capabilities), (key) => refused.includes(key)),
  );
  return [{ ...range, replacement: applyEdits(kept, extensionEdits(kept, whole(kept), allowed)) }];
}

/** Takes extensions that may not pass out of the capabilities at `range`. */
export function extensionEdits(bytes: Buffer, capabilities: Range, allowed: readonly string[]): Edit[] {
  const extensions = memberRange(bytes, capabilities, 'extensions');
  return extensions === undefined ? [] : removeMembers(bytes, extensions, (key) => !allowed.includes(key));
}

function hasOther(capabilities: JsonObject, allowed: readonly string[]): boolean {
  const { extensions } = capabilities;
  return isObject(extensions) && Object.keys(extensions).some((key) => !allowed.includes(key));
}
