import { canonicalJson, type DefinitionKind, sha256 } from '@sallyport/schema';
import { objectMember, type JsonObject } from '../mcp/envelope.ts';

/** The lists of a server, by the capability that tells of changes, with the methods that read them. */
export const watchedLists = {
  tools: [['tools/list', 'tools']],
  prompts: [['prompts/list', 'prompts']],
  resources: [
    ['resources/list', 'resources'],
    ['resources/templates/list', 'resourceTemplates'],
  ],
} as const satisfies Record<string, readonly (readonly [method: string, member: string])[]>;
export type WatchedList = keyof typeof watchedLists;
export const watchedListNames = Object.keys(watchedLists) as WatchedList[];

/** The list that definitions of a kind are in; null where in none. */
export const listOfKind: Readonly<Record<DefinitionKind, WatchedList | null>> = {
  tool: 'tools',
  prompt: 'prompts',
  resource: 'resources',
  resourceTemplate: 'resources',
  view: 'resources',
  instructions: null,
  serverInfo: null,
};

/** The notification that a list is another now. */
export function listChangedMethod(list: WatchedList): string {
  return `notifications/${list}/list_changed`;
}
export const listChangedMethods: ReadonlySet<string> = new Set(watchedListNames.map(listChangedMethod));

/** The lists whose changes a server says it tells of. */
export function announcedLists(capabilities: JsonObject): WatchedList[] {
  return watchedListNames.filter((name) => objectMember(capabilities, name)?.['listChanged'] === true);
}

export function listChanged(list: WatchedList): JsonObject {
  return { jsonrpc: '2.0', method: listChangedMethod(list) };
}

/**
 * What lists looked like when they were read last, by whoever asks for them again and again in place of a server that
 * tells nobody. The order of a list says nothing.
 */
export class ListChanges {
  readonly #seen = new Map<WatchedList, string>();

  /**
   * @param entries everything that the list has now; undefined where it could not be read, which says nothing
   * @returns whether it changed since it was read before
   */
  read(list: WatchedList, entries: readonly unknown[] | undefined): boolean {
    if (entries === undefined) return false;
    const digest = sha256(canonicalJson(entries.map((entry) => canonicalJson(entry)).sort()));
    const before = this.#seen.get(list);
    this.#seen.set(list, digest);
    return before !== undefined && before !== digest;
  }
}
