import { type SQL, sql } from 'drizzle-orm';
import { type AttrExp, type Filter, parse } from 'scim2-parse-filter';
import { scimProblem } from './scim-problem.ts';

const filterLengthMax = 2048;
const comparisonsMax = 32;

type Comparison = Extract<AttrExp, { compValue: unknown }>;
type Value = Comparison['compValue'];

/** How an attribute is compared in the database. */
export type Attribute =
  | { readonly kind: 'text'; readonly value: SQL; readonly caseExact: boolean }
  | { readonly kind: 'truth'; readonly value: SQL }
  | { readonly kind: 'instant'; readonly value: SQL }
  /** Multi-valued: true where one element satisfies the condition. */
  | { readonly kind: 'list'; readonly elements: Attributes; readonly some: (condition: SQL) => SQL };
/** By lower-case name. */
export type Attributes = ReadonlyMap<string, Attribute>;

export const text = (value: SQL, caseExact = false): Attribute => ({ kind: 'text', value, caseExact });

/**
 * The condition of a filter (RFC 7644 §3.4.2.2). Text is compared without regard to case, unless the attribute is
 * exact. An attribute that has no column here is refused: a filter that is passed over would find everybody.
 * @param coreSchema its URN may stand before a name
 */
export function filterCondition(filter: string, attributes: Attributes, coreSchema: string): SQL {
  if (filter.length > filterLengthMax) {
    throw scimProblem('invalidFilter', `the filter has more than ${filterLengthMax} characters`);
  }
  let parsed: Filter;
  try {
    parsed = parse(withinElements(filter));
  } catch {
    throw scimProblem('invalidFilter', 'the filter cannot be read: see RFC 7644, section 3.4.2.2');
  }
  return new Compiler(coreSchema).condition(parsed, attributes);
}

const quoted = String.raw`"(?:[^"\\]|\\.)*"`;
const ofElement = new RegExp(
  String.raw`${quoted}|(?<list>[\w$:.-]+)\[(?<which>(?:${quoted}|[^"\]])*)\]\.(?<part>[\w$-]+)\s+(?<rest>pr\b|\w\w\s+(?:${quoted}|[^\s"()]+))`,
  'giu',
);

/**
 * `emails[type eq "work"].value eq "x"`, as Entra asks, said in the RFC's words: of one element. The parser would take it for
 * two conditions, which two elements may satisfy.
 */
function withinElements(filter: string): string {
  return filter.replaceAll(ofElement, (whole: string, ...more: unknown[]) => {
    const { list, which, part, rest } = more.at(-1) as Readonly<Record<string, string | undefined>>;
    return list === undefined ? whole : `${list}[(${which}) and ${part} ${rest}]`;
  });
}

class Compiler {
  readonly #prefix: string;
  #comparisons = 0;

  constructor(coreSchema: string) {
    this.#prefix = `${coreSchema.toLowerCase()}:`;
  }

  condition(filter: Filter, attributes: Attributes): SQL {
    switch (filter.op) {
      case 'and':
      case 'or': {
        const parts = filter.filters.map((part) => this.condition(part, attributes));
        return sql`(${sql.join(parts, filter.op === 'and' ? sql` and ` : sql` or `)})`;
      }
      case 'not':
        return sql`(not coalesce(${this.condition(filter.filter, attributes)}, false))`;
      case '[]': {
        const attribute = this.#attribute(filter.attrPath, attributes);
        if (attribute.kind !== 'list') throw scimProblem('invalidFilter', `${filter.attrPath} has one value`);
        return attribute.some(this.condition(filter.valFilter, attribute.elements));
      }
      default:
        return this.#compared(filter, this.#attribute(filter.attrPath, attributes));
    }
  }

  #attribute(path: string, attributes: Attributes): Attribute {
    this.#comparisons++;
    if (this.#comparisons > comparisonsMax) {
      throw scimProblem('invalidFilter', `the filter compares more than ${comparisonsMax} times`);
    }
    const lower = path.toLowerCase();
    const name = lower.startsWith(this.#prefix) ? lower.slice(this.#prefix.length) : lower;
    const found = attributes.get(name);
    if (found !== undefined) return found;
    const dot = name.lastIndexOf('.');
    const list = dot < 0 ? undefined : attributes.get(name.slice(0, dot));
    const element = list?.kind === 'list' ? list.elements.get(name.slice(dot + 1)) : undefined;
    if (list?.kind !== 'list' || element === undefined) {
      throw scimProblem('invalidFilter', `${path} cannot be filtered by`);
    }
    return { ...list, elements: new Map([['value', element]]) };
  }

  #compared(filter: AttrExp, attribute: Attribute): SQL {
    switch (attribute.kind) {
      case 'list': {
        if (filter.op === 'pr') return attribute.some(sql`true`);
        const element = attribute.elements.get('value');
        if (element === undefined) throw scimProblem('invalidFilter', `${filter.attrPath} has no value of its own`);
        return attribute.some(this.#compared(filter, element));
      }
      case 'text':
        if (filter.op === 'pr') return sql`(${attribute.value} is not null and ${attribute.value} <> '')`;
        return comparedText(filter, attribute.value, attribute.caseExact);
      case 'truth':
        if (filter.op === 'pr') return sql`(${attribute.value} is not null)`;
        return comparedTruth(filter, attribute.value);
      case 'instant':
        if (filter.op === 'pr') return sql`true`;
        return comparedInstant(filter, attribute.value);
      default:
        return attribute satisfies never;
    }
  }
}

const orders = { gt: sql`>`, ge: sql`>=`, lt: sql`<`, le: sql`<=` } as const;

function comparedText({ op, compValue, attrPath }: Comparison, value: SQL, caseExact: boolean): SQL {
  if (compValue === null) return absence(op, attrPath, value);
  const given = String(compValue);
  if (given.includes('\u0000') || !given.isWellFormed()) throw scimProblem('invalidFilter', 'a text cannot be stored');
  const left = caseExact ? value : sql`lower(${value})`;
  const right = caseExact ? sql`${given}::text` : sql`lower(${given}::text)`;
  switch (op) {
    case 'eq':
      return sql`(${left} = ${right})`;
    case 'ne':
      return sql`(${left} is distinct from ${right})`;
    case 'co':
      return sql`(strpos(${left}, ${right}) > 0)`;
    case 'sw':
      return sql`starts_with(${left}, ${right})`;
    case 'ew':
      return sql`(right(${left}, length(${right})) = ${right})`;
    default:
      return sql`(${left} collate "C" ${orders[op]} ${right})`;
  }
}

/** `eq null` and `ne null`, by which some directories ask for absence and presence. */
function absence(op: Comparison['op'], attrPath: string, value: SQL): SQL {
  if (op === 'eq') return sql`(${value} is null)`;
  if (op === 'ne') return sql`(${value} is not null)`;
  throw scimProblem('invalidFilter', `${attrPath} ${op} null means nothing`);
}

function comparedTruth({ op, compValue, attrPath }: Comparison, value: SQL): SQL {
  const truth = truthOf(compValue);
  if (truth === undefined || (op !== 'eq' && op !== 'ne')) {
    throw scimProblem('invalidFilter', `${attrPath} is compared by eq or ne with true or false`);
  }
  return sql`(coalesce(${value}, false) = ${op === 'eq' ? truth : !truth})`;
}

function truthOf(value: Value): boolean | undefined {
  if (typeof value === 'boolean') return value;
  const lower = typeof value === 'string' ? value.toLowerCase() : '';
  return lower === 'true' ? true : lower === 'false' ? false : undefined;
}

function comparedInstant({ op, compValue, attrPath }: Comparison, value: SQL): SQL {
  const instant = typeof compValue === 'string' ? Date.parse(compValue) : Number.NaN;
  if (Number.isNaN(instant)) throw scimProblem('invalidFilter', `${attrPath} is compared with an ISO 8601 instant`);
  const at = sql`${new Date(instant).toISOString()}::timestamptz`;
  // As it is shown: to the millisecond.
  const shown = sql`date_trunc('milliseconds', ${value})`;
  if (op === 'eq') return sql`(${shown} = ${at})`;
  if (op === 'ne') return sql`(${shown} <> ${at})`;
  if (op === 'co' || op === 'sw' || op === 'ew') throw scimProblem('invalidFilter', `${attrPath} is no text`);
  return sql`(${shown} ${orders[op]} ${at})`;
}
