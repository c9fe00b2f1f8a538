import { paramHeaders, type ParamHeader, type ServerDocument } from '@sallyport/schema';
import { isObject, stringMember } from '../mcp/envelope.ts';
import type { ServerRuntime } from '../runtime/runtime.ts';

/**
 * Which arguments of a tool travel in headers: as its approved definitions say, which come with the configuration; or as
 * the upstream's own list says, where it refused what they say. Holds as long as the server's document does.
 */
export class ParamHeaderMap {
  readonly #learnt = new WeakMap<ServerDocument, Map<string, readonly ParamHeader[]>>();

  /** The headers to send. Of several approved definitions all that any has: an upstream ignores what it does not ask for. */
  of({ document, definitions }: ServerRuntime, tool: string): readonly ParamHeader[] {
    const learnt = this.#learnt.get(document)?.get(tool);
    if (learnt !== undefined) return learnt;
    const byName = new Map<string, ParamHeader>();
    for (const header of definitions.get('tool', tool)?.paramHeaders?.flat() ?? []) {
      const name = header.name.toLowerCase();
      if (!byName.has(name)) byName.set(name, header);
    }
    return [...byName.values()];
  }

  /** Takes over what a list of the upstream's says of one tool; annotations that break the rules say nothing. */
  learn({ document }: ServerRuntime, tool: string, tools: readonly unknown[]): void {
    const listed = tools.find((each) => isObject(each) && stringMember(each, 'name') === tool);
    const headers = (isObject(listed) ? paramHeaders(listed['inputSchema']) : undefined) ?? [];
    const byTool = this.#learnt.get(document) ?? new Map<string, readonly ParamHeader[]>();
    this.#learnt.set(document, byTool.set(tool, headers));
  }
}
