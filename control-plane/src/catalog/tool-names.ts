import { type DefinitionFinding, type DiscoveryResult, keysSpokenOf, toolKey } from '@sallyport/schema';
import { sql } from 'drizzle-orm';
import type { Reader } from '../database/client.ts';

type Found = DiscoveryResult['definitions'];
type FoundDefinition = Found[number];
/** Names looked up at once. */
const keysPerQuery = 5_000;

/** How the names in a definition stand to those of other tools, of its own server and of others. */
export interface NameRelation {
  /** Keys of tools that it speaks of and only other servers have. */
  readonly foreign: readonly string[];
  /** What its own name says of it. */
  readonly findings: readonly DefinitionFinding[];
}

const unrelated: NameRelation = { foreign: [], findings: [] };

/** Whether a finding follows from other definitions and may be another tomorrow. */
export function isRelational({ detector, category }: DefinitionFinding): boolean {
  return detector === 'shadow' || (detector === 'name' && category === 'collidingName');
}

/** Which names there are, of what the definitions at hand speak of. */
export class ToolNames {
  readonly #taken: ReadonlySet<string>;
  /** Names of the server's own tools, by key. */
  readonly #own: ReadonlyMap<string, ReadonlySet<string>>;

  private constructor(taken: ReadonlySet<string>, own: ReadonlyMap<string, ReadonlySet<string>>) {
    this.#taken = taken;
    this.#own = own;
  }

  /**
   * @param found what was seen of the server just now
   * @param isWhole whether that is all it has; else what it is known to have counts too
   */
  static async read(reader: Reader, serverId: string, found: Found, isWhole: boolean): Promise<ToolNames> {
    const spoken = [...new Set(found.filter(speaks).flatMap(({ raw }) => [...keysSpokenOf(raw)]))];
    const taken = new Set<string>();
    const own = new Map<string, Set<string>>();
    const add = (key: string, names: readonly string[]): void => {
      const known = own.get(key);
      if (known === undefined) own.set(key, new Set(names));
      else for (const name of names) known.add(name);
    };
    for (const { kind, name } of found) if (kind === 'tool') add(toolKey(name), [name]);
    for (let from = 0; from < spoken.length; from += keysPerQuery) {
      const keys = JSON.stringify(spoken.slice(from, from + keysPerQuery));
      const rows = await reader.execute<{ key: string; own: string[] | null; is_taken: boolean }>(sql`
        select d.name_key as key, bool_or(d.server_id <> ${serverId}) as is_taken,
          array_agg(distinct d.name) filter (where d.server_id = ${serverId}) as own
        from jsonb_array_elements_text(${keys}::jsonb) spoken
          join definitions d on d.name_key = spoken
          join servers s on s.id = d.server_id and s.deleted_at is null
        where d.kind = 'tool' and d.removed_at is null
        group by 1`);
      for (const row of rows) {
        if (row.is_taken) taken.add(row.key);
        if (!isWhole && row.own !== null) add(row.key, row.own);
      }
    }
    return new ToolNames(taken, own);
  }

  relationOf(definition: FoundDefinition): NameRelation {
    if (!speaks(definition)) return unrelated;
    const { kind, name, raw } = definition;
    const foreign = [...keysSpokenOf(raw)].filter((key) => this.#taken.has(key) && !this.#own.has(key));
    if (kind !== 'tool') return { foreign, findings: [] };
    const key = toolKey(name);
    const findings: DefinitionFinding[] = [];
    const place = { path: '/name', start: 0, end: name.length };
    if ((this.#own.get(key)?.size ?? 0) > 1) {
      findings.push({ detector: 'name', category: 'collidingName', severity: 'high', ...place });
    }
    if (this.#taken.has(key)) findings.push({ detector: 'shadow', category: 'sameName', severity: 'low', ...place });
    return { foreign, findings };
  }
}

/** Resources are content; whatever they are called, no model calls them. */
function speaks({ kind }: FoundDefinition): boolean {
  return kind !== 'resource';
}
