import { paramHeaders, type ParamHeader, type ServerDocument } from '@sallyport/schema';
import { isObject, stringMember } from '../mcp/envelope.ts';
import type { ServerRuntime } from '../runtime/runtime.ts';

/**
 * Which arguments of a tool travel in headers, as the upstream's own list says. Holds as long as the server's document
 * does; a change of grants leaves that as it is.
 */
export class ParamHeaderMap {
  readonly #byDocument = new WeakMap<ServerDocument, ReadonlyMap<string, readonly ParamHeader[]>>();

  knows(server: ServerRuntime): boolean {
    return this.#byDocument.has(server.document);
  }

  of(server: ServerRuntime, tool: string): readonly ParamHeader[] {
    return this.#byDocument.get(server.document)?.get(tool) ?? [];
  }

  /** Takes over what a list of the upstream's says; tools whose annotations break the rules have none. */
  learn(server: ServerRuntime, tools: readonly unknown[]): void {
    const byTool = new Map<string, readonly ParamHeader[]>();
    for (const tool of tools) {
      if (!isObject(tool)) continue;
      const headers = paramHeaders(tool['inputSchema']) ?? [];
      if (headers.length > 0) byTool.set(stringMember(tool, 'name') ?? '', headers);
    }
    this.#byDocument.set(server.document, byTool);
  }
}
