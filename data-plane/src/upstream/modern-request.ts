import type { LimitsDocument, ParamHeader } from '@sallyport/schema';
import { mirroredHeaders } from '../bridge/translate.ts';
import type { JsonObject } from '../mcp/envelope.ts';
import type { Connections } from './connections.ts';
import type { CallTerms } from './legacy-channel.ts';
import { readMessages, type ResponseMessages } from './message-stream.ts';

/** Sends one request to a modern upstream, with the headers that mirror it. @throws AppError UPSTREAM_… */
export async function sendModern(
  connections: Pick<Connections, 'send'>,
  target: { readonly url: URL; readonly limits: LimitsDocument },
  message: { readonly method: string; readonly params: JsonObject },
  headers: readonly ParamHeader[],
  terms: CallTerms,
): Promise<ResponseMessages> {
  const { url, limits } = target;
  terms.onRequest(message.method);
  const response = await connections.send(
    {
      transport: 'streamableHttp',
      principalId: terms.principalId,
      credential: terms.credential,
      url,
      method: 'POST',
      headers: [
        ...['content-type', 'application/json', 'accept', 'application/json, text/event-stream'],
        ...['accept-encoding', 'identity', 'user-agent', 'sallyport'],
        ...mirroredHeaders(message.method, message.params, headers),
        ...terms.headers,
      ],
      body: Buffer.from(JSON.stringify(message)),
      firstByteTimeoutMs: limits.upstreamConnectTimeoutMs + limits.upstreamFirstByteTimeoutMs,
      totalTimeoutMs: terms.totalTimeoutMs,
      beforeWrite: terms.beforeWrite,
    },
    terms.signal,
  );
  const messages = await readMessages(response, limits);
  if (messages.refusal !== null) terms.onRefused(messages.refusal);
  return messages;
}
