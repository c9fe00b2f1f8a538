/** What a client may see of a server's lists, and whether a new configuration changed it. */
import { listChangedMethod, listOfKind, type WatchedList, watchedListNames } from '../bridge/list-changes.ts';
import { subscriptionIdKey } from '../bridge/translate.ts';
import { objectMember } from '../mcp/envelope.ts';
import type { Authorized } from './exchange.ts';

/** Each list as it would be shown, down to the wordings that may be. */
function shown({ routed, isAllowed }: Authorized): Readonly<Record<WatchedList, string>> {
  const parts: Record<WatchedList, string[]> = { tools: [], prompts: [], resources: [] };
  for (const { kind, name, state, approvedDigests } of routed.server.definitions) {
    const list = listOfKind[kind];
    if (list === null || state !== 'approved') continue;
    const target = { kind: kind === 'tool' || kind === 'prompt' ? kind : 'resource', name } as const;
    if (isAllowed(target)) parts[list].push(`${kind} ${name} ${approvedDigests.join()}`);
  }
  return { tools: parts.tools.join('\n'), prompts: parts.prompts.join('\n'), resources: parts.resources.join('\n') };
}

/** The lists that are others now for whom a stream belongs to. */
export function changedLists(before: Authorized, after: Authorized): readonly WatchedList[] {
  const [was, is] = [before.routed, after.routed];
  const isSame =
    was.server.fingerprint === is.server.fingerprint && was.authenticated.principal === is.authenticated.principal;
  if (isSame) return [];
  const [shownBefore, shownNow] = [shown(before), shown(after)];
  return watchedListNames.filter((list) => shownBefore[list] !== shownNow[list]);
}

/**
 * The notifications of changed lists for a client's stream, as its era has them; a modern client gets those that it asked
 * for (2026-07-28 basic/patterns/subscriptions).
 */
export function listChangedMessages({ routed }: Authorized, changed: readonly WatchedList[]): string[] {
  const { message, era } = routed.received;
  if (era === 'legacy') return changed.map((list) => `{"jsonrpc":"2.0","method":"${listChangedMethod(list)}"}`);
  const asked = objectMember(message?.params ?? {}, 'notifications') ?? {};
  return changed
    .filter((list) => asked[`${list}ListChanged`] === true)
    .map((list) => {
      const meta = `{"${subscriptionIdKey}":${message?.idText ?? 'null'}}`;
      return `{"jsonrpc":"2.0","method":"${listChangedMethod(list)}","params":{"_meta":${meta}}}`;
    });
}
