import type { InspectionResult } from '@sallyport/schema';
import { mirroredHeaders } from '../bridge/translate.ts';
import { type Message, parseMessage } from '../mcp/envelope.ts';
import { isMirroredParam, mirroredHeader, mirroredValue } from '../mcp/headers.ts';
import type { Runtime } from '../runtime/runtime.ts';
import type { Admitted, Authorized, Inspected } from './exchange.ts';
import { blockedError, type Inspector, policiesFor } from './inspector.ts';

export interface InspectRequestContext {
  readonly inspector: Pick<Inspector, 'inspect'>;
  /** Decides again what was changed; throws where it says no. */
  readonly reauthorize: (authorized: Authorized, runtime: Runtime) => Authorized;
}

/**
 * Looks at what the client sends under the policies that are about it. Where none is, and where nothing is found, the
 * received bytes go on as they are, without a wait. What was redacted is authorized again; headers that mirror arguments
 * say what the arguments say. Never changes the method or a name.
 * @throws AppError BLOCKED_BY_POLICY, INSPECTION_FAILED, and those of authorize for what was changed
 */
export function inspectRequest(admitted: Admitted, context: InspectRequestContext): Inspected | Promise<Inspected> {
  const { authorized } = admitted;
  const { body, request, kind } = authorized.routed.received;
  const policies = kind === 'message' ? policiesFor(authorized, 'request') : null;
  if (policies === null) return { authorized, body };
  const headers = [...request.headers]
    .filter(([name]) => isMirroredParam(name) || name === 'tracestate')
    .map(([name, value]) => ({ name, text: mirroredValue(value) ?? value }));
  const result = context.inspector.inspect(authorized, 'request', policies, { bytes: body, headers });
  return result instanceof Promise
    ? result.then((late) => afterInspection(authorized, late, context))
    : afterInspection(authorized, result, context);
}

function afterInspection(
  authorized: Authorized,
  result: InspectionResult,
  { reauthorize }: InspectRequestContext,
): Inspected {
  const { routed } = authorized;
  const { received } = routed;
  if (result.isBlocked) throw blockedError(result);
  if (result.changed === null && result.headers.size === 0) return { authorized, body: received.body };
  const body = result.changed === null ? received.body : Buffer.from(result.changed);
  const headers = new Map(received.request.headers);
  for (const [name, value] of result.headers) headers.set(name, mirroredHeader(value));
  const message = parseMessage(body);
  remirror(authorized, message, headers);
  const request = { ...received.request, headers };
  const changed = { ...received, body, message, request };
  return { authorized: reauthorize({ ...authorized, routed: { ...routed, received: changed } }, routed.runtime), body };
}

/** Arguments that a webhook changed say in headers what they say in the body; one that is gone says nothing. */
function remirror({ target, routed }: Authorized, message: Message, headers: Map<string, string>): void {
  const maps = target?.kind === 'tool' ? routed.server.definitions.get('tool', target.name)?.paramHeaders : undefined;
  if (maps === undefined || message.method === null || ![...headers.keys()].some(isMirroredParam)) return;
  const pairs = mirroredHeaders(message.method, message.params, maps.flat());
  const now = new Map<string, string>();
  for (let at = 0; at < pairs.length; at += 2) now.set(pairs[at] ?? '', pairs[at + 1] ?? '');
  for (const name of [...headers.keys()].filter(isMirroredParam)) {
    const value = now.get(name);
    if (value !== undefined) headers.set(name, value);
    else if (maps.flat().some((header) => `mcp-param-${header.name.toLowerCase()}` === name)) headers.delete(name);
  }
}
