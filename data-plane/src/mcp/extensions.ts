import { isObject, objectMember, type JsonObject, type Message } from './envelope.ts';
import { memberRange, removeMembers, type Edit, type Range } from './json-scanner.ts';
import { clientCapabilitiesKey } from './revision.ts';

/**
 * Takes out of a request what it declares of extensions that may not pass, so that a server does not answer in one that
 * its client could not go on with: `_meta` of a modern request, `capabilities` of a legacy `initialize`.
 */
export function declaredExtensionEdits(body: Buffer, message: Message, allowed: readonly string[]): Edit[] {
  const { params, paramsRange } = message;
  if (paramsRange === null) return [];
  const path = message.method === 'initialize' ? ['capabilities'] : ['_meta', clientCapabilitiesKey];
  let holder: JsonObject | undefined = params;
  for (const key of path) holder = holder === undefined ? undefined : objectMember(holder, key);
  if (holder === undefined || !hasOther(holder, allowed)) return [];
  let range: Range | undefined = paramsRange;
  for (const key of path) range = range === undefined ? undefined : memberRange(body, range, key);
  return range === undefined ? [] : extensionEdits(body, range, allowed);
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
