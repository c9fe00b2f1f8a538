import { AppError } from '@sallyport/schema';
import { objectMember, stringMember, type JsonObject } from '../mcp/envelope.ts';
import type { MessageStream } from '../upstream/legacy-channel.ts';

/** Pages read of a list. */
const pagesMax = 50;

/**
 * All entries of an upstream's list, for the bridge's own use: nobody is shown them. A list that it refuses is empty.
 * @param member of the result
 * @param ask sends a request for one page; its id is the bridge's own
 * @throws AppError UPSTREAM_…
 */
export async function readList(
  member: string,
  ask: (page: number, cursor: string | undefined) => Promise<MessageStream>,
): Promise<unknown[]> {
  const entries: unknown[] = [];
  const seen = new Set<string>();
  let cursor: string | undefined;
  for (let page = 0; page < pagesMax; page++) {
    const result = objectMember(await responseOf(await ask(page, cursor)), 'result') ?? {};
    if (Array.isArray(result[member])) entries.push(...(result[member] as unknown[]));
    cursor = stringMember(result, 'nextCursor');
    // A cursor that comes again would never end.
    if (cursor === undefined || seen.has(cursor)) break;
    seen.add(cursor);
  }
  return entries;
}

/** The response among what an upstream sends for one request of the bridge's own. */
export async function responseOf(messages: MessageStream): Promise<JsonObject> {
  for (let message = await messages.next(); message !== undefined; message = await messages.next()) {
    if ('method' in message) continue;
    messages.close();
    return message;
  }
  throw new AppError('UPSTREAM_PROTOCOL', { internal: 'no answer to a request of the bridge' });
}
