/** Asks everything the API has: for each query a document that selects all fields there are, to the limits of a query. */
import { readFileSync } from 'node:fs';
import {
  buildSchema,
  getNamedType,
  getNullableType,
  type GraphQLField,
  type GraphQLObjectType,
  type GraphQLSchema,
  isListType,
  isObjectType,
  isRequiredArgument,
} from 'graphql';

export const apiSchema: GraphQLSchema = buildSchema(
  readFileSync(new URL('../../schema/generated/schema.graphql', import.meta.url), 'utf8'),
);

/** Pages within pages; one more multiplies the cost of a query. */
const connectionsDeepMax = 2;
const levelsMax = 8;
const pageSize = 3;

type Field = GraphQLField<unknown, unknown>;

export function fieldsOf(type: GraphQLObjectType | null | undefined): readonly Field[] {
  return Object.values(type?.getFields() ?? {});
}

export function isConnection(field: Field): boolean {
  return field.args.some(({ name }) => name === 'first');
}

/** `{ … }` of a type, or undefined where nothing of it can be selected. A type is not entered again below itself. */
function selectionOf(type: GraphQLObjectType, above: readonly string[], connections: number): string | undefined {
  if (above.length >= levelsMax) return undefined;
  const fields = fieldsOf(type).flatMap((field) => {
    if (field.args.some((argument) => isRequiredArgument(argument))) return [];
    const named = getNamedType(field.type);
    if (!isObjectType(named)) return [field.name];
    const within = connections + (isConnection(field) ? 1 : 0);
    if (above.includes(named.name) || within > connectionsDeepMax) return [];
    const isUnpaged = isListType(getNullableType(field.type)) && field.name !== 'edges';
    const selection = selectionOf(named, [...above, type.name], within + (isUnpaged ? 1 : 0));
    if (selection === undefined) return [];
    return [`${field.name}${isConnection(field) ? `(first: ${pageSize})` : ''} ${selection}`];
  });
  return fields.length === 0 ? undefined : `{ ${fields.join(' ')} }`;
}

/** @param args as they stand between the parentheses; a connection gets `first` besides */
export function documentOf(field: Field, args: string | undefined, first = pageSize): string {
  const paged = isConnection(field) ? `first: ${first}` : '';
  const given = [args ?? '', paged].filter((part) => part !== '').join(', ');
  const named = getNamedType(field.type);
  const selection = isObjectType(named) ? (selectionOf(named, [], isConnection(field) ? 1 : 0) ?? '') : '';
  return `{ answer: ${field.name}${given === '' ? '' : `(${given})`} ${selection} }`;
}
