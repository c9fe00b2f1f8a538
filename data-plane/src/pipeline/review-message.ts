import {
  AppError,
  isProtocolRevision,
  legacyRevisions,
  type AccessTarget,
  type ProtocolRevision,
  serverInfoDefinition,
} from '@sallyport/schema';
import { listChangedMethods } from '../bridge/list-changes.ts';
import { sealTask } from '../bridge/sealed-task.ts';
import { serverInfoKey } from '../bridge/translate.ts';
import { isObject, isRequestId, stringMember, type JsonObject } from '../mcp/envelope.ts';
import { extensionEdits } from '../mcp/extensions.ts';
import { parseOutline } from '../mcp/json-outline.ts';
import {
  applyEdits,
  arrayElements,
  insertMember,
  keepElements,
  memberRange,
  parseRange,
  removeMembers,
  scanJson,
  type Edit,
  type Range,
} from '../mcp/json-scanner.ts';
import { unsupportedRevision } from '../mcp/revision.ts';
import type { Authorized } from './exchange.ts';
import {
  approvedName,
  areApproved,
  listedKind,
  type ListRule,
  toldServerInfo,
  unapprovedView,
  type Withheld,
} from './pinned-definitions.ts';
import { asksOf, type UpstreamAsk } from './upstream-asks.ts';

/** Every list there is: a resumed stream may bring the answer to any request. */
const allLists: readonly ListRule[] = [
  { member: 'tools', target: 'tool' },
  { member: 'prompts', target: 'prompt' },
  { member: 'resources', target: 'resource' },
  { member: 'resourceTemplates', target: 'resource' },
];

/** What comes from the upstream of an exchange. */
export interface Origin {
  readonly authorized: Authorized;
  /** A bridge put it into other words, and has looked at the definitions in it as they came. */
  readonly isBridged: boolean;
}

/** The member of a list's element that a grant names. */
const nameMembers = { tools: 'name', prompts: 'name', resources: 'uri', resourceTemplates: 'uriTemplate' } as const;

/** What was learnt of a message from the upstream, and the bytes that may go to the client. */
export interface Reviewed {
  /** Null: the client must not see the message at all. */
  readonly bytes: Buffer | null;
  /** Whether it answers the exchange's request. */
  readonly isAnswer: boolean;
  readonly isError: boolean;
  readonly rpcErrorCode: number | null;
  /** Of a successful `initialize`. */
  readonly negotiated: ProtocolRevision | null;
  /** Definitions that nobody approved. */
  readonly withheld: Withheld;
  /** URI of a page that is not the one that was approved, which takes the place of the answer. */
  readonly unapprovedView: string | undefined;
  /** A subscription stands. */
  readonly isAcknowledgement: boolean;
  /** The upstream says that its lists are others now. */
  readonly listsChanged: boolean;
  /** Id of a request of the upstream's own; null for anything else. */
  readonly callId: string | number | null;
  /** Id of a response, to whichever request; undefined for anything else. */
  readonly answerId: unknown;
  /** What it asks of the client. */
  readonly asks: readonly UpstreamAsk[];
}

const passed: Omit<Reviewed, 'bytes' | 'withheld'> = {
  isAnswer: false,
  isError: false,
  rpcErrorCode: null,
  negotiated: null,
  unapprovedView: undefined,
  isAcknowledgement: false,
  listsChanged: false,
  callId: null,
  answerId: undefined,
  asks: [],
};

/**
 * Looks at one JSON-RPC message on its way to the client: lists lose what the principal may not use and what nobody
 * approved, instructions and what a server says that it is go with them, capabilities lose what the gateway refuses, updates of resources and tasks that are no longer granted are dropped, tasks get the ids
 * that only their principal can use. Everything else passes with its very bytes.
 * @throws AppError UPSTREAM_PROTOCOL where it is no message; UNSUPPORTED_PROTOCOL_REVISION where a legacy handshake
 *   agreed on a revision the gateway does not know
 */
export function reviewMessage(bytes: Buffer, origin: Origin): Reviewed {
  const withheld: Withheld = [];
  return { ...review(bytes, origin, withheld), withheld };
}

function review(bytes: Buffer, origin: Origin, withheld: Withheld): Omit<Reviewed, 'withheld'> {
  const value = parse(bytes, origin);
  if (!isObject(value)) throw notAMessage('not an object');
  const asks = asksOf(value);
  const isCall = typeof value['method'] === 'string';
  const callId = isCall && isRequestId(value['id']) ? value['id'] : null;
  return {
    ...reviewValue(bytes, value, origin, withheld),
    callId,
    answerId: isCall ? undefined : (value['id'] ?? null),
    asks,
  };
}

function reviewValue(bytes: Buffer, value: JsonObject, origin: Origin, withheld: Withheld): Omit<Reviewed, 'withheld'> {
  const { authorized } = origin;
  // Which of two a client believes is its own affair, so only one of them may be there to be looked at.
  if (['method', 'result', 'error'].filter((key) => (value[key] ?? null) !== null).length > 1) {
    throw notAMessage('more than one of method, result and error');
  }
  const { method, result, error } = value;
  if (typeof method === 'string') {
    const listsChanged = listChangedMethods.has(method);
    const isAcknowledgement = method === 'notifications/subscriptions/acknowledged';
    const told = reviewCall(bytes, method, value['params'], authorized);
    return { ...passed, bytes: told, isAcknowledgement, listsChanged };
  }
  const { message } = authorized.routed.received;
  if (isObject(error)) return reviewError(bytes, value['id'], error, authorized);
  if (!isObject(result)) throw notAMessage('neither method, result nor error');
  if (message === null) {
    const view = unapprovedView(authorized.routed.server.definitions, undefined, result, withheld);
    return { ...passed, unapprovedView: view, bytes: reviewAnyAnswer(bytes, result, origin, withheld) };
  }
  // The answer to another request does not belong on this one's stream, and was not decided here.
  if (message.kind !== 'request' || value['id'] !== message.id) return { ...passed, bytes: null };
  return reviewAnswer(bytes, result, origin, withheld);
}

function reviewError(
  bytes: Buffer,
  id: unknown,
  { code }: JsonObject,
  { routed }: Authorized,
): Omit<Reviewed, 'withheld'> {
  const { message } = routed.received;
  // An upstream that could not read the id answers with null (JSON-RPC 2.0 §5).
  const isAnswer = message?.kind === 'request' && (id === message.id || id === null || id === undefined);
  // Another request's failure is as little to be told here as its result.
  if (message?.kind === 'request' && !isAnswer) return { ...passed, bytes: null };
  const rpcErrorCode = typeof code === 'number' && Number.isInteger(code) ? code : null;
  return { ...passed, bytes, isAnswer, isError: true, rpcErrorCode };
}

function parse(bytes: Buffer, { authorized }: Origin): unknown {
  const { message } = authorized.routed.received;
  try {
    if (message?.method !== 'tools/call') return JSON.parse(bytes.toString('utf8'));
    const outline = parseOutline(bytes);
    return isPlainAnswer(outline, message.id) ? outline : JSON.parse(bytes.toString('utf8'));
  } catch (cause) {
    throw new AppError('UPSTREAM_PROTOCOL', { internal: 'not JSON', cause });
  }
}

/**
 * Of a tool's result that asks nothing, is no task and says no more of its server than a plain name, nobody here reads more
 * than its outline. What else a server says that it is is compared word by word, long words too.
 */
function isPlainAnswer(value: unknown, id: string | number | null): boolean {
  if (!isObject(value) || 'method' in value || 'error' in value || value['id'] !== id) return false;
  const { result } = value;
  if (!isObject(result) || 'inputRequests' in result || result['resultType'] === 'task') return false;
  const meta = result['_meta'];
  const info = isObject(meta) ? meta[serverInfoKey] : undefined;
  return !isObject(info) || serverInfoDefinition(info) === undefined;
}

function notAMessage(internal: string): AppError {
  return new AppError('UPSTREAM_PROTOCOL', { internal: `not a JSON-RPC message: ${internal}` });
}

/** A notification or request of the upstream; null where the client must not see it. */
function reviewCall(bytes: Buffer, method: string, params: unknown, authorized: Authorized): Buffer | null {
  switch (method) {
    case 'notifications/resources/updated':
      return authorized.isAllowed({ kind: 'resource', name: updatedUri(params) ?? '' }) ? bytes : null;
    case 'notifications/tasks/status':
      // Of 2025-11-25, with the upstream's own id of a task: none was made by way of here.
      return null;
    case 'notifications/tasks': {
      const taskId = isObject(params) ? params['taskId'] : undefined;
      const task = authorized.tasks.find((each) => each.taskId === taskId);
      if (task === undefined || !authorized.isAllowed({ kind: 'tool', name: task.tool })) return null;
      return edit(bytes, 'params', (scanned) => memberEdits(bytes, scanned, ['taskId'], task.token));
    }
    case 'notifications/subscriptions/acknowledged': {
      const accepted = isObject(params) && isObject(params['notifications']) ? params['notifications']['taskIds'] : [];
      if (!Array.isArray(accepted) || accepted.length === 0) return bytes;
      const tokens = authorized.tasks.filter(({ taskId }) => accepted.includes(taskId)).map(({ token }) => token);
      return edit(bytes, 'params', (scanned) => memberEdits(bytes, scanned, ['notifications', 'taskIds'], tokens));
    }
    default:
      return bytes;
  }
}

/** Puts a value where a member stands. */
function memberEdits(bytes: Buffer, object: Range, path: readonly string[], value: unknown): Edit[] {
  let range: Range | undefined = object;
  for (const key of path) range = range === undefined ? undefined : memberRange(bytes, range, key);
  return range === undefined ? [] : [{ ...range, replacement: JSON.stringify(value) }];
}

function updatedUri(params: unknown): string | undefined {
  return isObject(params) ? (stringMember(params, 'uri') ?? '') : '';
}

function reviewAnswer(
  came: Buffer,
  result: Readonly<Record<string, unknown>>,
  origin: Origin,
  withheld: Withheld,
): Omit<Reviewed, 'withheld'> {
  const { authorized } = origin;
  const answer = { ...passed, isAnswer: true, isError: result['isError'] === true };
  const { rule, routed } = authorized;
  const bytes = toldIdentity(came, result, origin, withheld);
  if (rule?.list !== undefined) return { ...answer, bytes: reviewList(bytes, result, rule.list, origin, withheld) };
  const { extensions } = routed.server.document;
  switch (routed.received.message?.method) {
    case 'initialize':
      return { ...answer, ...reviewInitialize(toldInstructions(bytes, result, origin, withheld), result, extensions) };
    case 'server/discover': {
      const told = toldInstructions(bytes, result, origin, withheld);
      return { ...answer, bytes: edit(told, 'result', (scanned) => discoverEdits(told, scanned, extensions)) };
    }
    case 'resources/read':
      return {
        ...answer,
        unapprovedView: unapprovedView(routed.server.definitions, authorized.target?.name, result, withheld),
        bytes:
          result['cacheScope'] === 'public' ? edit(bytes, 'result', (scanned) => privateEdits(bytes, scanned)) : bytes,
      };
    case 'tools/call':
      return result['resultType'] === 'task'
        ? { ...answer, bytes: reviewTask(bytes, result, authorized) }
        : { ...answer, bytes };
    case 'tasks/get':
    case 'tasks/update':
    case 'tasks/cancel':
      return { ...answer, bytes: reviewTask(bytes, result, authorized) };
    default:
      return { ...answer, bytes };
  }
}

/** The answer without instructions that nobody approved. */
function toldInstructions(bytes: Buffer, result: JsonObject, { authorized }: Origin, withheld: Withheld): Buffer {
  const { definitions } = authorized.routed.server;
  if (areApproved(definitions, result['instructions'], withheld)) return bytes;
  return edit(bytes, 'result', (scanned) => removeMembers(bytes, scanned, (key) => key === 'instructions'));
}

/**
 * The answer with no more of what its server says that it is than was approved: in the greeting of the legacy era, and in
 * any answer of the modern one (2026-07-28 basic, `_meta`).
 */
function toldIdentity(bytes: Buffer, result: JsonObject, { authorized }: Origin, withheld: Withheld): Buffer {
  const { server, received } = authorized.routed;
  const { message } = received;
  const told = (before: Buffer, path: readonly string[], info: unknown): Buffer => {
    const instead = info === undefined ? undefined : toldServerInfo(server, info, withheld);
    if (instead === undefined) return before;
    return edit(before, 'result', (scanned) => memberEdits(before, scanned, path, instead));
  };
  const meta = result['_meta'];
  const inMeta = isObject(meta) ? told(bytes, ['_meta', serverInfoKey], meta[serverInfoKey]) : bytes;
  const isGreeting = message === null || message.method === 'initialize';
  return isGreeting ? told(inMeta, ['serverInfo'], result['serverInfo']) : inMeta;
}

/** An answer to whatever it was, on a stream that is taken up again. */
function reviewAnyAnswer(bytes: Buffer, result: JsonObject, origin: Origin, withheld: Withheld): Buffer {
  const told = toldInstructions(toldIdentity(bytes, result, origin, withheld), result, origin, withheld);
  return edit(told, 'result', (scanned) =>
    allLists.flatMap((list) => listEdits(told, scanned, list, origin, withheld)),
  );
}

/** A task has the same id for its client from its creation on. */
function reviewTask(bytes: Buffer, result: JsonObject, { routed, target, tasks }: Authorized): Buffer {
  const { taskId } = result;
  const [named] = tasks;
  if (named !== undefined && (taskId === undefined || taskId === named.taskId)) {
    return edit(bytes, 'result', (scanned) => memberEdits(bytes, scanned, ['taskId'], named.token));
  }
  if (named !== undefined || typeof taskId !== 'string' || target === null) {
    throw new AppError('UPSTREAM_PROTOCOL', { internal: 'a task without an id, or another than was asked for' });
  }
  const { principal } = routed.authenticated;
  const owner = { principalId: principal.id, principalEpoch: principal.epoch, serverId: routed.server.document.id };
  const token = sealTask(routed.runtime, owner, target.name, taskId);
  return edit(bytes, 'result', (scanned) => memberEdits(bytes, scanned, ['taskId'], token));
}

function reviewList(
  bytes: Buffer,
  result: Readonly<Record<string, unknown>>,
  list: ListRule,
  origin: Origin,
  withheld: Withheld,
): Buffer {
  const { era } = origin.authorized.routed.received;
  return edit(bytes, 'result', (scanned) => [
    ...listEdits(bytes, scanned, list, origin, withheld),
    // What one principal may see is no public truth (2026-07-28 server/utilities/caching).
    ...(era === 'modern' && result['cacheScope'] !== 'private' ? privateEdits(bytes, scanned) : []),
  ]);
}

/** Edits a member of a message; the strict scan comes first, since what two parsers read differently cannot be cut. */
function edit(bytes: Buffer, member: 'result' | 'params', edits: (range: Range) => Edit[]): Buffer {
  const scan = scanJson(bytes);
  if (!scan.ok) throw new AppError('UPSTREAM_PROTOCOL', { internal: `answer refused: ${scan.problem}` });
  const range = scan.members.get(member);
  if (range === undefined) throw notAMessage(`no ${member}`);
  return applyEdits(bytes, edits(range));
}

function listEdits(
  bytes: Buffer,
  result: Range,
  list: ListRule,
  { authorized, isBridged }: Origin,
  withheld: Withheld,
): Edit[] {
  const range = memberRange(bytes, result, list.member);
  if (range === undefined) return [];
  const elements = arrayElements(bytes, range);
  if (elements === undefined) throw new AppError('UPSTREAM_PROTOCOL', { internal: `${list.member} is not a list` });
  const { definitions } = authorized.routed.server;
  const nameOf = (element: Range): unknown => {
    if (!isBridged) {
      const text = bytes.subarray(element.start, element.end);
      return approvedName(definitions, listedKind[list.member], text, withheld);
    }
    const nameRange = memberRange(bytes, element, nameMembers[list.member]);
    return nameRange === undefined ? undefined : parseRange(bytes, nameRange);
  };
  const kept = elements.filter((element) => {
    const name = nameOf(element);
    return typeof name === 'string' && authorized.isAllowed({ kind: list.target, name } satisfies AccessTarget);
  });
  return keepElements(bytes, elements, kept);
}

function privateEdits(bytes: Buffer, result: Range): Edit[] {
  const scope = memberRange(bytes, result, 'cacheScope');
  if (scope !== undefined) return [{ ...scope, replacement: '"private"' }];
  return [insertMember(bytes, result, '"cacheScope":"private"')];
}

function reviewInitialize(
  bytes: Buffer,
  result: JsonObject,
  extensions: readonly string[],
): Pick<Reviewed, 'bytes' | 'negotiated'> {
  const negotiated = result['protocolVersion'];
  if (!isProtocolRevision(negotiated) || !(legacyRevisions as readonly string[]).includes(negotiated)) {
    throw unsupportedRevision(null, legacyRevisions);
  }
  const capabilitiesEdits = (from: Buffer, edits: (capabilities: Range) => Edit[]): Buffer =>
    edit(from, 'result', (scanned) => {
      const capabilities = memberRange(from, scanned, 'capabilities');
      return capabilities === undefined ? [] : edits(capabilities);
    });
  // One after the other: the first may replace the bytes of the second.
  const known = capabilitiesEdits(bytes, (range) => removeMembers(bytes, range, (key) => key === 'tasks'));
  return { bytes: capabilitiesEdits(known, (range) => extensionEdits(known, range, extensions)), negotiated };
}

/** Nothing is advertised that the gateway does not carry (2026-07-28 server/discover). */
function discoverEdits(bytes: Buffer, result: Range, extensions: readonly string[]): Edit[] {
  const edits: Edit[] = [];
  const revisions = memberRange(bytes, result, 'supportedVersions');
  const elements = revisions === undefined ? undefined : arrayElements(bytes, revisions);
  if (elements !== undefined) {
    const known = elements.filter((element) => isProtocolRevision(parseRange(bytes, element)));
    edits.push(...keepElements(bytes, elements, known));
  }
  const capabilities = memberRange(bytes, result, 'capabilities');
  if (capabilities !== undefined) edits.push(...extensionEdits(bytes, capabilities, extensions));
  return edits;
}
