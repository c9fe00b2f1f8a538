import { AppError } from '@sallyport/schema';
import { objectMember, stringMember, type JsonObject } from '../mcp/envelope.ts';
import type { MessageStream } from '../upstream/legacy-channel.ts';

/** Pages read of a list of tools. */
const pagesMax = 50;

/**
 * All tools of an upstream, for the bridge's own use: nobody is shown them.
 * @param ask sends a request for one page; its id is the bridge's own
 * @throws AppError UPSTREAM_…
 */
export async function readTools(
  ask: (page: number, cursor: string | undefined) => Promise<MessageStream>,
): Promise<unknown[]> {
  const tools: unknown[] = [];
  const seen = new Set<string>();
  let cursor: string | undefined;
  for (let page = 0; page < pagesMax; page++) {
    const result = objectMember(await responseOf(await ask(page, cursor)), 'result') ?? {};
    if (Array.isArray(result['tools'])) tools.push(...(result['tools'] as unknown[]));
    cursor = stringMember(result, 'nextCursor');
    // A cursor that comes again would never end.
    if (cursor === undefined || seen.has(cursor)) break;
    seen.add(cursor);
  }
  return tools;
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
