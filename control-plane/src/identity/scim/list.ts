import { plainObject, type Json } from './scim-json.ts';
import { scimProblem } from './scim-problem.ts';

export const listSchema = 'urn:ietf:params:scim:api:messages:2.0:ListResponse';
export const resourcesPerPageMax = 200;
const pageSizeDefault = 100;

/** What a list is asked for (RFC 7644 §3.4.2), and which attributes are to be shown. */
export interface ListQuery {
  readonly filter: string | undefined;
  /** One for the first. */
  readonly startIndex: number;
  /** 0 asks for the number alone. */
  readonly count: number;
}

/** Lower-case names of attributes to show alone, or to leave out (RFC 7644 §3.9); undefined: all. */
export interface Projection {
  readonly attributes: ReadonlySet<string> | undefined;
  readonly excluded: ReadonlySet<string>;
}

export interface Page<Row> {
  readonly total: number;
  readonly rows: readonly Row[];
}

/** The page that is asked for. @param read by how many to pass over, and how many to give at most */
export async function readPage<Row>(
  { startIndex, count }: ListQuery,
  total: () => Promise<number>,
  read: (offset: number, limit: number) => Promise<readonly Row[]>,
): Promise<Page<Row>> {
  return { total: await total(), rows: count === 0 ? [] : await read(startIndex - 1, count) };
}

/** Reads the parameters of a GET. */
export function queryOf(parameters: URLSearchParams): ListQuery & Projection {
  const names = (name: string): string[] => (parameters.get(name) ?? '').split(',');
  return {
    filter: parameters.get('filter') ?? undefined,
    startIndex: numberOf(parameters.get('startIndex'), 'startIndex', 1),
    count: numberOf(parameters.get('count'), 'count', pageSizeDefault),
    ...projectionOf(names('attributes'), names('excludedAttributes')),
  };
}

/** Reads the body of a POST to `.search` (RFC 7644 §3.4.3). */
export function searchOf(body: Json): ListQuery & Projection {
  const { filter, startIndex, count, attributes, excludedAttributes } = plainObject(body, 'the body');
  if (filter !== undefined && typeof filter !== 'string') throw scimProblem('invalidFilter', 'filter must be a text');
  return {
    filter,
    startIndex: numberOf(startIndex, 'startIndex', 1),
    count: numberOf(count, 'count', pageSizeDefault),
    ...projectionOf(listOf(attributes), listOf(excludedAttributes)),
  };
}

function listOf(value: unknown): string[] {
  return Array.isArray(value) ? value.filter((name) => typeof name === 'string') : [];
}

/** Numbers below their least mean the least (RFC 7644 §3.4.2.4). */
function numberOf(value: unknown, name: string, fallback: number): number {
  if (value === undefined || value === null || value === '') return fallback;
  const number = Number(value);
  if (!Number.isSafeInteger(number)) throw scimProblem('invalidValue', `${name} must be a whole number`);
  return name === 'count' ? Math.min(Math.max(number, 0), resourcesPerPageMax) : Math.max(number, 1);
}

function projectionOf(attributes: readonly string[], excluded: readonly string[]): Projection {
  const shown = attributes.map(normalName).filter((name) => name !== '');
  return {
    attributes: shown.length === 0 ? undefined : new Set(shown),
    excluded: new Set(excluded.map(normalName)),
  };
}

function normalName(name: string): string {
  return name
    .trim()
    .toLowerCase()
    .replace(/^urn:ietf:params:scim:schemas:core:2\.0:(user|group):/, '');
}

export function isShown({ attributes, excluded }: Projection, name: string): boolean {
  const lower = name.toLowerCase();
  if (attributes === undefined) return !excluded.has(lower);
  return [...attributes].some(
    (wanted) => wanted === lower || (/^[.:]/.test(wanted.slice(lower.length)) && wanted.startsWith(lower)),
  );
}

/** The resource with what was asked for; `id`, `schemas` and `meta` always belong to it. */
export function project(resource: Readonly<Record<string, unknown>>, projection: Projection): Record<string, unknown> {
  const always = ['id', 'schemas', 'meta'];
  const entries = Object.entries(resource).filter(([name]) => always.includes(name) || isShown(projection, name));
  return Object.fromEntries(entries);
}
