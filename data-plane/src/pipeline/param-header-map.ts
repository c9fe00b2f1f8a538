import { paramHeaders, type ParamHeader, type ServerDocument } from '@sallyport/schema';
import { isObject, stringMember } from '../mcp/envelope.ts';
import type { ServerRuntime } from '../runtime/runtime.ts';

type Maps = readonly (readonly ParamHeader[])[];

/**
 * Which arguments of a tool travel in headers: as its approved definitions say, which come with the configuration; or as
 * the upstream's own list says, where it refused what they say. Holds as long as the server's document does.
 */
export class ParamHeaderMap {
  readonly #approved = new WeakMap<ServerDocument, ReadonlyMap<string, Maps>>();
  readonly #learnt = new WeakMap<ServerDocument, Map<string, readonly ParamHeader[]>>();

  /** The headers to send. Of several approved definitions all that any has: an upstream ignores what it does not ask for. */
  of({ document }: ServerRuntime, tool: string): readonly ParamHeader[] {
    const learnt = this.#learnt.get(document)?.get(tool);
    if (learnt !== undefined) return learnt;
    const byName = new Map<string, ParamHeader>();
    for (const header of this.#mapsOf(document).get(tool)?.flat() ?? []) {
      const name = header.name.toLowerCase();
      if (!byName.has(name)) byName.set(name, header);
    }
    return [...byName.values()];
  }

  /** The maps a client may have gone by, one for each approved definition that differs; none where headers play no part. */
  approved({ document }: ServerRuntime, tool: string): Maps {
    return this.#mapsOf(document).get(tool) ?? [];
  }

  /** Takes over what a list of the upstream's says of one tool; annotations that break the rules say nothing. */
  learn({ document }: ServerRuntime, tool: string, tools: readonly unknown[]): void {
    const listed = tools.find((each) => isObject(each) && stringMember(each, 'name') === tool);
    const headers = (isObject(listed) ? paramHeaders(listed['inputSchema']) : undefined) ?? [];
    const byTool = this.#learnt.get(document) ?? new Map<string, readonly ParamHeader[]>();
    this.#learnt.set(document, byTool.set(tool, headers));
  }

  #mapsOf(document: ServerDocument): ReadonlyMap<string, Maps> {
    const known = this.#approved.get(document);
    if (known !== undefined) return known;
    const byTool = new Map<string, Maps>();
    for (const { kind, name, paramHeaders: maps } of document.definitions) {
      if (kind === 'tool' && maps !== undefined) byTool.set(name, maps);
    }
    this.#approved.set(document, byTool);
    return byTool;
  }
}
