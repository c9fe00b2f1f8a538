import { paramHeaders, type ParamHeader } from '@sallyport/schema';
import { isObject, stringMember, type JsonObject } from '../mcp/envelope.ts';
import type { ServerRuntime } from '../runtime/runtime.ts';

/** Servers whose headers were read here; the one read longest ago goes first. */
const serversMax = 1024;

/**
 * Which arguments of a tool travel in headers, as read from the upstream's own list when it found one missing. Holds
 * until the server's configuration changes.
 */
export class ParamHeaderMap {
  readonly #read = new Map<
    string,
    { readonly fingerprint: string; readonly byTool: Map<string, readonly ParamHeader[]> }
  >();

  of(server: ServerRuntime, tool: string): readonly ParamHeader[] {
    const read = this.#read.get(server.document.id);
    const own = read?.fingerprint === server.fingerprint ? read.byTool.get(tool) : undefined;
    return own ?? [];
  }

  /** Takes over what a list of the upstream's says; tools whose annotations break the rules have none. */
  learn(server: ServerRuntime, tools: readonly unknown[]): void {
    const byTool = new Map<string, readonly ParamHeader[]>();
    for (const tool of tools) {
      const name = isObject(tool) ? stringMember(tool, 'name') : undefined;
      if (name !== undefined) byTool.set(name, paramHeaders((tool as JsonObject)['inputSchema']) ?? []);
    }
    this.#read.delete(server.document.id);
    this.#read.set(server.document.id, { fingerprint: server.fingerprint, byTool });
    const [oldest] = this.#read.keys();
    if (this.#read.size > serversMax && oldest !== undefined) this.#read.delete(oldest);
  }
}
