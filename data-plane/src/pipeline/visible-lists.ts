/** What a client may see of a server's lists, and whether a new configuration changed it. */
import type { ListedKind } from '@sallyport/schema';
import { subscriptionIdKey } from '../bridge/translate.ts';
import { objectMember } from '../mcp/envelope.ts';
import type { Authorized } from './exchange.ts';

const lists = ['tools', 'prompts', 'resources'] as const;
export type ChangedList = (typeof lists)[number];

const listOf = { tool: 'tools', prompt: 'prompts', resource: 'resources', resourceTemplate: 'resources' } as const;

/** Each list as it would be shown, down to the wordings that may be. */
function shown({ routed, isAllowed }: Authorized): Readonly<Record<ChangedList, string>> {
  const parts: Record<ChangedList, string[]> = { tools: [], prompts: [], resources: [] };
  for (const { kind, name, state, approvedDigests } of routed.server.definitions) {
    if (kind === 'instructions' || state !== 'approved') continue;
    const target = { kind: kind === 'resourceTemplate' ? 'resource' : kind, name } as const;
    if (isAllowed(target)) parts[listOf[kind satisfies ListedKind]].push(`${kind} ${name} ${approvedDigests.join()}`);
  }
  return { tools: parts.tools.join('\n'), prompts: parts.prompts.join('\n'), resources: parts.resources.join('\n') };
}

/** The lists that are others now for whom a stream belongs to. */
export function changedLists(before: Authorized, after: Authorized): readonly ChangedList[] {
  const [was, is] = [before.routed, after.routed];
  const isSame =
    was.server.fingerprint === is.server.fingerprint && was.authenticated.principal === is.authenticated.principal;
  if (isSame) return [];
  const [shownBefore, shownNow] = [shown(before), shown(after)];
  return lists.filter((list) => shownBefore[list] !== shownNow[list]);
}

/**
 * The notifications of changed lists for a client's stream, as its era has them; a modern client gets those that it asked
 * for (2026-07-28 basic/patterns/subscriptions).
 */
export function listChangedMessages({ routed }: Authorized, changed: readonly ChangedList[]): string[] {
  const { message, era } = routed.received;
  if (era === 'legacy') return changed.map((list) => `{"jsonrpc":"2.0","method":"notifications/${list}/list_changed"}`);
  const asked = objectMember(message?.params ?? {}, 'notifications') ?? {};
  return changed
    .filter((list) => asked[`${list}ListChanged`] === true)
    .map((list) => {
      const meta = `{"${subscriptionIdKey}":${message?.idText ?? 'null'}}`;
      return `{"jsonrpc":"2.0","method":"notifications/${list}/list_changed","params":{"_meta":${meta}}}`;
    });
}
