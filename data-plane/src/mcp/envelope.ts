import { AppError } from '@sallyport/schema';
import { scanJson, type JsonProblem, type Range, type ScanResult } from './json-scanner.ts';

export type JsonObject = Readonly<Record<string, unknown>>;

/** A JSON-RPC message as it came: what decisions need, and where in the bytes it stands. */
export interface Message {
  readonly kind: 'request' | 'notification' | 'response';
  /** Of a request or response; keeps its JSON type, so `1` and `"1"` stay two ids. */
  readonly id: string | number | null;
  /** The id as it was written, for echoing. */
  readonly idText: string | null;
  /** Null for a response. */
  readonly method: string | null;
  readonly params: JsonObject;
  readonly paramsRange: Range | null;
}

const problemTexts: Readonly<Record<JsonProblem, string>> = {
  notUtf8: 'The body is not valid UTF-8.',
  syntax: 'The body is not valid JSON.',
  duplicateKey: 'The body has an object with the same key twice.',
  tooDeep: 'The body is nested too deeply.',
  tooManyNodes: 'The body has too many values.',
};

export function isObject(value: unknown): value is JsonObject {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/**
 * Reads one JSON-RPC 2.0 message out of a body.
 * @throws AppError PARSE_ERROR where the bytes are no JSON, INVALID_REQUEST where they are no single message
 */
export function parseMessage(bytes: Buffer): Message {
  const text = bytes.toString('utf8');
  const scan = scanBody(bytes, text);
  const value: unknown = JSON.parse(text);
  if (!isObject(value) || value['jsonrpc'] !== '2.0') throw new AppError('INVALID_REQUEST');
  refuseOtherSpellings(value);
  const id = scan.members.get('id');
  const idText = id === undefined ? null : bytes.toString('utf8', id.start, id.end);
  return 'method' in value
    ? parseCall(value, idText, scan.members.get('params') ?? null)
    : parseResponse(value, idText);
}

/**
 * @param text the bytes as text, where there is one
 * @throws AppError PARSE_ERROR where the bytes are no JSON, INVALID_REQUEST where two parsers could read two things
 */
export function scanBody(bytes: Buffer, text?: string): Extract<ScanResult, { ok: true }> {
  const scan = scanJson(bytes, text);
  if (scan.ok) return scan;
  const broken = scan.problem === 'notUtf8' || scan.problem === 'syntax';
  throw new AppError(broken ? 'PARSE_ERROR' : 'INVALID_REQUEST', { publicMessage: problemTexts[scan.problem] });
}

/** Members that say what a message asks for, where they stand. */
const messageMembers = membersByFold(['jsonrpc', 'id', 'method', 'params', 'result', 'error']);
const paramsMembers = membersByFold([
  'name',
  'uri',
  'arguments',
  'ref',
  'notifications',
  '_meta',
  'taskId',
  'task',
  'requestId',
]);
const refMembers = membersByFold(['type', 'name', 'uri']);
const notificationsMembers = membersByFold(['resourceSubscriptions', 'taskIds']);

/**
 * Some upstreams match members without regard to case (Go's encoding/json does, Unicode's folds included), so that
 * `Name` beside `name` would be the tool they call and not the one that was authorized. The bytes go on as they are:
 * what could be read as another member than it is does not pass.
 */
function refuseOtherSpellings(message: JsonObject): void {
  refuseOtherSpelling(message, messageMembers);
  const params = objectMember(message, 'params');
  if (params === undefined) return;
  refuseOtherSpelling(params, paramsMembers);
  const ref = objectMember(params, 'ref');
  if (ref !== undefined) refuseOtherSpelling(ref, refMembers);
  const notifications = objectMember(params, 'notifications');
  if (notifications !== undefined) refuseOtherSpelling(notifications, notificationsMembers);
}

function refuseOtherSpelling(object: JsonObject, members: ReadonlyMap<string, string>): void {
  for (const key of Object.keys(object)) {
    const member = members.get(key) ?? members.get(fold(key));
    if (member !== undefined && member !== key) {
      throw new AppError('INVALID_REQUEST', { publicMessage: `The member ${member} must be written as such.` });
    }
  }
}

function membersByFold(members: readonly string[]): ReadonlyMap<string, string> {
  return new Map(members.flatMap((member) => [[member, member] as const, [fold(member), member] as const]));
}

/** Wider than any parser's: compatibility forms, such as the long s and the Kelvin sign, fold too. */
function fold(key: string): string {
  return key.normalize('NFKC').toLowerCase();
}

/** In UTF-16 code units. */
const requestIdLengthMax = 1_024;

function parseCall(value: JsonObject, idText: string | null, paramsRange: Range | null): Message {
  const { method, params } = value;
  if (typeof method !== 'string' || 'result' in value || 'error' in value) throw new AppError('INVALID_REQUEST');
  if (params !== undefined && !isObject(params)) throw new AppError('INVALID_REQUEST');
  const known = { method, params: params ?? {}, paramsRange };
  if (idText === null) return { kind: 'notification', id: null, idText: null, ...known };
  return { kind: 'request', id: requestId(value['id']), idText, ...known };
}

function parseResponse(value: JsonObject, idText: string | null): Message {
  const answers = Number(isObject(value['result'])) + Number(isObject(value['error']));
  if (answers !== 1 || ('result' in value && 'error' in value)) throw new AppError('INVALID_REQUEST');
  return { kind: 'response', id: requestId(value['id']), idText, method: null, params: {}, paramsRange: null };
}

/** Whether a value can be the id of a message; a longer text is no id but something to be kept and sent around. */
export function isRequestId(id: unknown): id is string | number {
  return typeof id === 'string' ? id.length <= requestIdLengthMax : typeof id === 'number' && Number.isInteger(id);
}

function requestId(id: unknown): string | number {
  if (isRequestId(id)) return id;
  const publicMessage = `The id of a message is a string of at most ${requestIdLengthMax} characters or an integer.`;
  throw new AppError('INVALID_REQUEST', { publicMessage });
}

/** A string member, or undefined where it is absent or of another type. */
export function stringMember(object: JsonObject, key: string): string | undefined {
  const value = Object.hasOwn(object, key) ? object[key] : undefined;
  return typeof value === 'string' ? value : undefined;
}

export function objectMember(object: JsonObject, key: string): JsonObject | undefined {
  const value = Object.hasOwn(object, key) ? object[key] : undefined;
  return isObject(value) ? value : undefined;
}
