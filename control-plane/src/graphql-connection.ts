/**
 * The pieces every slice's GraphQL types share: scalars, enums, mutation inputs, and Relay connections over keyset cursors.
 */
// First: decorators need it, and every file with one imports this file.
import 'reflect-metadata';
import { AppError } from '@sallyport/schema';
import { GraphQLDateTimeISO, GraphQLJSON } from 'graphql-scalars';
import { ArgsType, type ClassType, Field, ID, InputType, Int, ObjectType, registerEnumType } from 'type-graphql';
import { isUuid } from './database/mutation.ts';

/** An instant, ISO 8601 with milliseconds and offset. */
export const DateTime = GraphQLDateTimeISO;
/** Any JSON value. */
export const Json = GraphQLJSON;

export const pageSizeDefault = 50;
export const pageSizeMax = 200;
const cursorLengthMax = 1024;

/**
 * A GraphQL enum over string literals: `serviceAccount` is SERVICE_ACCOUNT to callers and stays `serviceAccount` inside.
 * @param values each literal with its description
 */
export function graphqlEnum<Value extends string>(
  name: string,
  description: string,
  values: Readonly<Record<Value, string>>,
): Readonly<Record<string, string>> {
  const nameOf = (value: string): string => value.replace(/([a-z0-9])([A-Z])/g, '$1_$2').toUpperCase();
  const members = Object.fromEntries(Object.keys(values).map((value) => [nameOf(value), value]));
  registerEnumType(members, {
    name,
    description,
    valuesConfig: Object.fromEntries(
      Object.entries<string>(values).map(([value, text]) => [nameOf(value), { description: text }]),
    ),
  });
  return members;
}

export const dryRunDescription =
  'Check everything and answer as if done, but change nothing: no row, no audit event, no new revision.';
export const idempotencyKeyDescription =
  'Chosen by the caller, at most 128 characters. Repeating the same create with the same key within 24 hours ' +
  'returns the object made the first time; with another input it is refused.';

export const broughtSecretDescription =
  'The secret, where the caller brings it along: the prefix and 43 to 96 random letters, digits, - or _. It is not shown ' +
  'again, and may be known to whoever handled it; if absent, one is made.';

@InputType({ description: 'Inherited by the inputs of mutations.' })
export abstract class MutationInput {
  @Field(() => Boolean, { defaultValue: false, description: dryRunDescription })
  dryRun!: boolean;
}

@InputType({ description: 'Inherited by the inputs of mutations.' })
export abstract class CreateInput extends MutationInput {
  @Field(() => String, { nullable: true, description: idempotencyKeyDescription })
  idempotencyKey?: string | null;
}

@InputType({ description: 'Inherited by the inputs of mutations.' })
export abstract class ChangeInput extends MutationInput {
  @Field(() => ID, { description: 'Id of the object to change.' })
  id!: string;

  @Field(() => Int, {
    nullable: true,
    description: 'Refuse with CONFLICT unless the object still has this revision.',
  })
  expectedRevision?: number | null;
}

@InputType({ description: 'Inherited by the items of mutations.' })
export abstract class ReferenceInput {
  @Field(() => ID, { description: 'Id of the object to change.' })
  id!: string;

  @Field(() => Int, {
    nullable: true,
    description: 'Refuse all with CONFLICT unless the object still has this revision.',
  })
  expectedRevision?: number | null;
}

@ArgsType()
export class PageArguments {
  @Field(() => Int, {
    nullable: true,
    description: `How many to return: 1 to ${pageSizeMax}; ${pageSizeDefault} if not given.`,
  })
  first?: number | null;

  @Field(() => String, { nullable: true, description: 'Return what comes after this cursor.' })
  after?: string | null;
}

@ArgsType()
export class SearchArguments extends PageArguments {
  @Field(() => String, {
    nullable: true,
    description:
      'Only those whose names and texts contain each of these words, in any case and order: at most 8 words and 128 ' +
      'characters.',
  })
  search?: string | null;
}

@ObjectType({ description: 'Where a page lies in its list.' })
export class PageInfo {
  @Field(() => Boolean, { description: 'Whether there is more after this page.' })
  hasNextPage!: boolean;

  @Field(() => Boolean, {
    description: 'Whether this page was asked for by a cursor, so that something came before it.',
  })
  hasPreviousPage!: boolean;

  @Field(() => String, { nullable: true, description: 'Cursor of the first edge; null for an empty page.' })
  startCursor!: string | null;

  @Field(() => String, {
    nullable: true,
    description: 'Cursor after which the list goes on, as a rule that of the last edge; null after an empty last page.',
  })
  endCursor!: string | null;
}

export interface EdgeOf<Node> {
  node: Node;
  cursor: string;
}
export interface ConnectionOf<Node> {
  edges: EdgeOf<Node>[];
  pageInfo: PageInfo;
}

/**
 * The Relay connection type of an object type: `<name>Connection` with `<name>Edge`.
 * @param list what the list holds, for the description: "servers"
 */
export function connectionType<Node extends object>(
  name: string,
  list: string,
  node: () => ClassType<Node>,
): ClassType<ConnectionOf<Node>> {
  @ObjectType(`${name}Edge`, { description: `One entry of a page of ${list}.` })
  class Edge implements EdgeOf<Node> {
    @Field(node, { description: 'The object itself.' })
    node!: Node;

    @Field(() => String, { description: 'Position of this entry; opaque.' })
    cursor!: string;
  }

  @ObjectType(`${name}Connection`, { description: `A page of ${list}.` })
  class Connection implements ConnectionOf<Node> {
    @Field(() => [Edge], { description: 'The entries of this page, in order.' })
    edges!: Edge[];

    @Field(() => PageInfo, { description: 'Where the page lies in the list.' })
    pageInfo!: PageInfo;
  }
  return Connection;
}

/** A page as a query needs it: fetch `limit + 1` rows after `after`, so that the extra one tells of a next page. */
export interface Page {
  readonly limit: number;
  /** The sort key of the row before the page, as `connectionFrom` encoded it. */
  readonly after: readonly string[] | undefined;
}

function decodeCursor(cursor: string, parts: number): readonly string[] | undefined {
  if (cursor.length > cursorLengthMax) return undefined;
  try {
    const value: unknown = JSON.parse(Buffer.from(cursor, 'base64url').toString('utf8'));
    if (!Array.isArray(value) || value.length !== parts) return undefined;
    return value.every((part): part is string => typeof part === 'string') ? value : undefined;
  } catch {
    return undefined;
  }
}

function encodeCursor(position: readonly string[]): string {
  return Buffer.from(JSON.stringify(position)).toString('base64url');
}

/**
 * Reads the paging arguments. A cursor's LAST part is the row's id and must be a UUID unless `idPart` is false; parts
 * before it are for the caller to check.
 * @param parts how many strings the list's sort key has
 */
export function pageOf(args: PageArguments, parts = 1, idPart = true): Page {
  const violations: { path: string; message: string }[] = [];
  const limit = args.first ?? pageSizeDefault;
  if (limit < 1 || limit > pageSizeMax) {
    violations.push({ path: 'first', message: `must be between 1 and ${pageSizeMax}` });
  }
  const after = typeof args.after === 'string' ? decodeCursor(args.after, parts) : undefined;
  const badId = idPart && after !== undefined && !isUuid(after.at(-1) ?? '');
  if (typeof args.after === 'string' && (after === undefined || badId)) {
    violations.push({ path: 'after', message: 'is not a cursor of this list' });
  }
  if (violations.length > 0) throw new AppError('INVALID_INPUT', { violations });
  return { limit, after };
}

/**
 * The connection for rows fetched with `limit + 1`.
 * @param position the row's sort key; its last part is unique in the list
 * @param goesOnAfter sort key where the list goes on after a page that is not full
 */
export function connectionFrom<Row>(
  rows: readonly Row[],
  page: Page,
  position: (row: Row) => readonly string[],
  goesOnAfter?: readonly string[],
): ConnectionOf<Row> {
  const edges = rows.slice(0, page.limit).map((row) => ({ node: row, cursor: encodeCursor(position(row)) }));
  return {
    edges,
    pageInfo: {
      hasNextPage: rows.length > page.limit || goesOnAfter !== undefined,
      hasPreviousPage: page.after !== undefined,
      startCursor: edges[0]?.cursor ?? null,
      endCursor: goesOnAfter === undefined ? (edges.at(-1)?.cursor ?? null) : encodeCursor(goesOnAfter),
    },
  };
}
