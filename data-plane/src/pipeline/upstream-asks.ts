import { AppError, noAsks, type UpstreamAsks } from '@sallyport/schema';
import { clientRequests } from '../bridge/client-profile.ts';
import { urlElicitationRequired } from '../bridge/translate.ts';
import { isObject, objectMember, stringMember, type JsonObject } from '../mcp/envelope.ts';
import { applyEdits, memberRange, scanJson } from '../mcp/json-scanner.ts';
import type { Authorized } from './exchange.ts';
import { asksForSecret } from './secret-forms.ts';

/** Something that an upstream asks of the client. */
export interface UpstreamAsk {
  readonly method: string;
  readonly params: JsonObject;
  /** Where its parameters stand in the message. */
  readonly path: readonly string[];
}

/** Why an ask is refused. */
export type AskRefusal =
  | 'notAllowed'
  | 'tooMany'
  | 'tooLarge'
  | 'tooManyTokens'
  | 'asksForSecret'
  | 'foreignAddress'
  | 'unknownMode';

/** Requests of servers that ask nothing of anybody. */
const harmless: ReadonlySet<string> = new Set(['ping']);

/** What a message asks of the client: by itself, in an `input_required`, in a task, or in an error that names URLs. */
export function asksOf(message: JsonObject): readonly UpstreamAsk[] {
  const method = stringMember(message, 'method');
  if (method !== undefined) {
    const params = objectMember(message, 'params') ?? {};
    if (method === 'notifications/tasks') return questionsOf(params, 'params');
    // A request that nobody knows is one that may not be asked; a known one whatever its id, even one that is none.
    const isAsk = Object.hasOwn(clientRequests, method) || ('id' in message && !harmless.has(method));
    return isAsk ? [{ method, params, path: ['params'] }] : [];
  }
  const result = objectMember(message, 'result');
  if (result !== undefined) return questionsOf(result, 'result');
  const error = objectMember(message, 'error');
  const elicitations = error?.['code'] === urlElicitationRequired ? objectMember(error, 'data')?.['elicitations'] : [];
  if (!Array.isArray(elicitations)) return [];
  // Whatever mode each says: the error itself says that people are to be sent somewhere.
  return elicitations
    .filter(isObject)
    .map((params) => ({ method: 'elicitation/create', params: { ...params, mode: 'url' }, path: [] }));
}

/** The questions in a result or a task. What is no question is none that may be asked. */
function questionsOf(holder: JsonObject, member: 'params' | 'result'): readonly UpstreamAsk[] {
  const questions = holder['inputRequests'] ?? undefined;
  if (questions === undefined) return [];
  if (!isObject(questions)) return [{ method: '', params: {}, path: [] }];
  return Object.entries(questions).map(([key, question]) => ({
    method: isObject(question) ? (stringMember(question, 'method') ?? '') : '',
    params: isObject(question) ? (objectMember(question, 'params') ?? {}) : {},
    path: [member, 'inputRequests', key, 'params'],
  }));
}

/**
 * Why one of the asks may not reach the client; undefined where all may. Counts them. Looks at what is asked for and
 * where people would be sent; what the texts say is for the detectors.
 */
export function refusedAsk(asks: readonly UpstreamAsk[], authorized: Authorized): AskRefusal | undefined {
  const { server, received } = authorized.routed;
  const { exchange } = received;
  const allowed = server.document.asks ?? noAsks;
  exchange.asks += asks.length;
  if (asks.some(({ method }) => !isAllowed(method, allowed))) return 'notAllowed';
  if (exchange.asks > allowed.perExchangeMax) return 'tooMany';
  for (const ask of asks) {
    const refusal = refusalOf(ask, allowed, server.upstream);
    if (refusal !== undefined) return refusal;
  }
  return undefined;
}

function isAllowed(method: string, allowed: UpstreamAsks): boolean {
  const kind = Object.hasOwn(clientRequests, method) ? clientRequests[method] : undefined;
  return kind !== undefined && allowed[kind];
}

function refusalOf({ method, params }: UpstreamAsk, allowed: UpstreamAsks, upstream: URL): AskRefusal | undefined {
  if (Buffer.byteLength(JSON.stringify(params)) > allowed.bytesMax) return 'tooLarge';
  if (method === 'sampling/createMessage') {
    const tokens = params['maxTokens'];
    return typeof tokens === 'number' && tokens <= allowed.samplingTokensMax ? undefined : 'tooManyTokens';
  }
  if (method !== 'elicitation/create') return undefined;
  switch (params['mode'] ?? 'form') {
    case 'form':
      // A client that does not know modes goes by what is there.
      if (params['url'] !== undefined && !isOwnAddress(params['url'], allowed, upstream)) return 'foreignAddress';
      return asksForSecret(params) ? 'asksForSecret' : undefined;
    case 'url':
      return isOwnAddress(params['url'], allowed, upstream) ? undefined : 'foreignAddress';
    default:
      return 'unknownMode';
  }
}

/** The message without the client's own context being asked for: what other servers said is not this one's to have. */
export function withoutContext(bytes: Buffer, asks: readonly UpstreamAsk[]): Buffer {
  const wide = asks.filter(({ method, params }) => {
    const { includeContext } = params;
    return method === 'sampling/createMessage' && includeContext !== undefined && includeContext !== 'none';
  });
  if (wide.length === 0) return bytes;
  const scan = scanJson(bytes);
  if (!scan.ok) throw new AppError('UPSTREAM_PROTOCOL', { internal: `question refused: ${scan.problem}` });
  const edits = wide.flatMap(({ path: [first = '', ...rest] }) => {
    let range = scan.members.get(first);
    for (const key of [...rest, 'includeContext']) range = range && memberRange(bytes, range, key);
    return range === undefined ? [] : [{ ...range, replacement: '"none"' }];
  });
  return applyEdits(bytes, edits);
}

/** A page of the server itself, or of a host that an administrator named; encrypted, unless the server is not either. */
function isOwnAddress(address: unknown, { elicitationHosts }: UpstreamAsks, upstream: URL): boolean {
  const url = typeof address === 'string' ? URL.parse(address) : null;
  if (url === null || url.username !== '' || url.password !== '') return false;
  if (url.hostname === upstream.hostname) return url.protocol === 'https:' || url.protocol === upstream.protocol;
  return url.protocol === 'https:' && elicitationHosts.includes(url.hostname);
}
