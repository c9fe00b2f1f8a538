import { asksPerExchangeMax, toAppError } from '@sallyport/schema';
import type { Log } from '@sallyport/schema/platform';
import { forwardedHeaders } from '../mcp/headers.ts';
import { methodNotFound } from '../bridge/translate.ts';
import type { Connections } from '../upstream/connections.ts';
import { type Forwarded, traceHeaders } from './exchange.ts';

/** How long an upstream may take to take an answer, in milliseconds, and to say so, in bytes. */
const answerTimeoutMs = 10_000;
const answerBytesMax = 65_536;

export interface UpstreamSender {
  readonly connections: Pick<Connections, 'send'>;
  readonly log: Pick<Log, 'debug'>;
}

/**
 * Answers in the client's place, as a client without the capability would, what an upstream of the legacy era asks and
 * may not. Null where the exchange crosses eras, or is of the modern one, which asks in its answers.
 */
export function refuseUpstream(
  { authorized, response, credential }: Forwarded,
  { connections, log }: UpstreamSender,
): ((id: string | number) => void) | null {
  const { routed } = authorized;
  const { received, server } = routed;
  if (received.era !== 'legacy' || !server.eras.has('legacy')) return null;
  const sessionId = routed.session?.upstreamSessionId ?? response.header('mcp-session-id');
  const headers = [
    ...forwardedHeaders(received.request.headers, 'legacy', 'POST'),
    ...traceHeaders(received),
    ...(sessionId === undefined ? [] : ['mcp-session-id', sessionId]),
  ];
  let refused = 0;
  return (id) => {
    // Who asks on and on gets no answer any more.
    refused += 1;
    if (refused > asksPerExchangeMax) return;
    const error = { code: methodNotFound, message: 'The client does not offer this.' };
    const request = {
      principalId: routed.authenticated.principal.id,
      credential,
      transport: server.document.transport,
      url: server.upstream,
      method: 'POST' as const,
      headers,
      body: Buffer.from(JSON.stringify({ jsonrpc: '2.0', id, error })),
      firstByteTimeoutMs: answerTimeoutMs,
      totalTimeoutMs: answerTimeoutMs,
      beforeWrite: () => undefined,
    };
    connections
      .send(request, null)
      .then((answer) => answer.collect({ bytesMax: answerBytesMax, idleTimeoutMs: answerTimeoutMs }))
      // It waits in vain then, as for a client that is gone; its own deadline ends that.
      .catch((thrown: unknown) => log.debug({ err: toAppError(thrown) }, 'an upstream did not take a refusal'));
  };
}
