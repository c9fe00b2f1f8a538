import { once } from 'node:events';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { AppError, toAppError } from '@sallyport/schema';
import type { Clock, Log } from '@sallyport/schema/platform';
import { type Actor, createContext } from '../context.ts';
import type { ExportService } from './export.service.ts';

export interface ExportEndpointOptions {
  readonly exports: ExportService;
  /** The actor of a presented API key; throws UNAUTHENTICATED. */
  readonly authenticate: (apiKey: string, from: string | null) => Promise<Actor>;
  readonly addressOf: (request: IncomingMessage) => string | null;
  readonly clock: Clock;
  readonly log: Log;
}

/**
 * `GET /audit/export?from=…&to=…` (ISO 8601, `to` exclusive): the trail as JSON Lines, streamed. Needs an API key whose
 * roles give audit:read. An export that fails on the way has no `end` entry, so that it cannot pass for a whole one.
 */
export async function handleExport(
  options: ExportEndpointOptions,
  request: IncomingMessage,
  response: ServerResponse,
): Promise<void> {
  const { clock, log } = options;
  try {
    const match = /^Bearer +(\S+)$/i.exec(request.headers.authorization ?? '');
    if (match?.[1] === undefined) throw new AppError('UNAUTHENTICATED', { internal: 'no bearer token' });
    const actor = await options.authenticate(match[1], options.addressOf(request));
    const ctx = createContext(actor, { clock, log });
    const chunks = await options.exports.export(ctx, rangeOf(request.url ?? ''));
    response.writeHead(200, { 'content-type': 'application/jsonl', 'cache-control': 'no-store' });
    for await (const chunk of chunks) {
      if (response.destroyed) return;
      if (!response.write(chunk)) await Promise.race([once(response, 'drain'), once(response, 'close')]);
    }
    response.end();
  } catch (thrown) {
    const error = toAppError(thrown);
    if (error.entry.owner === 'platform') log.error({ err: thrown }, 'an export failed');
    if (response.headersSent) {
      response.destroy();
      return;
    }
    const { code, publicMessage: message, violations } = error;
    response.writeHead(error.entry.http, { 'content-type': 'application/json', 'cache-control': 'no-store' });
    response.end(`${JSON.stringify({ errors: [{ message, extensions: { code, violations } }] })}\n`);
  }
}

function rangeOf(url: string): { readonly from: Date; readonly to: Date } {
  const query = new URL(url, 'http://localhost').searchParams;
  const violations: { path: string; message: string }[] = [];
  const instant = (name: string): Date => {
    const value = new Date(query.get(name) ?? '');
    if (Number.isNaN(value.getTime())) violations.push({ path: name, message: 'must be an ISO 8601 instant' });
    return value;
  };
  const range = { from: instant('from'), to: instant('to') };
  if (violations.length > 0) throw new AppError('INVALID_INPUT', { violations });
  return range;
}
