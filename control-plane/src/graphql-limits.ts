import { AppError } from '@sallyport/schema';
import {
  BREAK,
  type DocumentNode,
  type FieldNode,
  type FragmentDefinitionNode,
  getNamedType,
  getNullableType,
  type GraphQLCompositeType,
  type GraphQLField,
  type GraphQLSchema,
  isCompositeType,
  isListType,
  Kind,
  type OperationDefinitionNode,
  type SelectionSetNode,
  visit as visitNodes,
} from 'graphql';
import { pageSizeDefault } from './graphql-connection.ts';

/** Levels of fields below the operation. Introspection has the limits of graphql-js itself. */
export const queryDepthMax = 10;
/** Fields under another name than their own, over the whole operation. */
export const queryAliasesMax = 15;
/** A field costs 1, times the size of every page it lies in. */
export const queryCostMax = 20_000;
/** Tokens of a document, before it is parsed any further. */
export const queryTokensMax = 5_000;
/** Selections looked at, so that fragments which name fragments cannot make the counting itself long. */
const selectionsMax = 5_000;
/** What takes as long as its input says, while others wait: an alias must not multiply what one may give. */
const oncePerQuery: ReadonlySet<string> = new Set(['testPolicy']);
/** What a list of objects without paging is taken to hold. */
const unpagedListSize = 10;

interface Walk {
  readonly schema: GraphQLSchema;
  readonly fragments: ReadonlyMap<string, FragmentDefinitionNode>;
  readonly variables: Readonly<Record<string, unknown>>;
  readonly isMutation: boolean;
  mutations: number;
  readonly asked: Set<string>;
  selections: number;
  aliases: number;
  cost: number;
}

function refuse(problem: string): never {
  throw new AppError('QUERY_TOO_COMPLEX', { violations: [{ path: 'query', message: problem }] });
}

function pageSize(walk: Walk, node: FieldNode): number {
  const value = node.arguments?.find((argument) => argument.name.value === 'first')?.value;
  if (value?.kind === Kind.INT) return Math.max(1, Number(value.value));
  if (value?.kind === Kind.VARIABLE) {
    const given = walk.variables[value.name.value];
    if (typeof given === 'number') return Math.max(1, given);
  }
  return pageSizeDefault;
}

function multiplierOf(walk: Walk, node: FieldNode, field: GraphQLField<unknown, unknown>): number {
  if (field.args.some((argument) => argument.name === 'first')) return pageSize(walk, node);
  // `edges` is a list as well; the page above it has been counted.
  const unpaged = isListType(getNullableType(field.type)) && isCompositeType(getNamedType(field.type));
  return unpaged && field.name !== 'edges' ? unpagedListSize : 1;
}

function visit(walk: Walk, set: SelectionSetNode, parent: GraphQLCompositeType, depth: number, factor: number): void {
  for (const selection of set.selections) {
    walk.selections += 1;
    if (walk.selections > selectionsMax) refuse(`selects more than ${selectionsMax} fields and fragments`);
    if (selection.kind === Kind.FRAGMENT_SPREAD) {
      const fragment = walk.fragments.get(selection.name.value);
      const type = fragment && walk.schema.getType(fragment.typeCondition.name.value);
      if (fragment !== undefined && isCompositeType(type)) visit(walk, fragment.selectionSet, type, depth, factor);
    } else if (selection.kind === Kind.INLINE_FRAGMENT) {
      const type = selection.typeCondition ? walk.schema.getType(selection.typeCondition.name.value) : parent;
      if (isCompositeType(type)) visit(walk, selection.selectionSet, type, depth, factor);
    } else {
      visitField(walk, selection, parent, depth, factor);
    }
  }
}

function visitField(walk: Walk, node: FieldNode, parent: GraphQLCompositeType, depth: number, factor: number): void {
  if (node.alias !== undefined && node.alias.value !== node.name.value) walk.aliases += 1;
  if (walk.aliases > queryAliasesMax) refuse(`has more than ${queryAliasesMax} aliases`);
  if (node.name.value.startsWith('__')) return;
  // Each mutation is a transaction of its own: several in one request would look like one, and be none.
  if (walk.isMutation && depth === 1) walk.mutations += 1;
  if (walk.mutations > 1) refuse('changes more than one thing: send one mutation with each request');
  if (depth === 1 && oncePerQuery.has(node.name.value)) {
    if (walk.asked.has(node.name.value)) refuse(`asks for ${node.name.value} more than once`);
    walk.asked.add(node.name.value);
  }
  if (depth > queryDepthMax) refuse(`is deeper than ${queryDepthMax} levels`);
  walk.cost += factor;
  if (walk.cost > queryCostMax) refuse(`may read more than ${queryCostMax} values; ask for smaller pages`);
  const field = 'getFields' in parent ? parent.getFields()[node.name.value] : undefined;
  const type = field && getNamedType(field.type);
  if (field === undefined || node.selectionSet === undefined || !isCompositeType(type)) return;
  visit(walk, node.selectionSet, type, depth + 1, factor * multiplierOf(walk, node, field));
}

/** Refuses an operation that is too deep, too dear or has too many aliases. The document must be valid already. */
export function assertWithinLimits(
  schema: GraphQLSchema,
  document: DocumentNode,
  operation: OperationDefinitionNode,
  variables: Readonly<Record<string, unknown>>,
): void {
  const root = schema.getRootType(operation.operation);
  if (root === undefined || root === null) return;
  const defaults = (operation.variableDefinitions ?? []).flatMap(({ variable, defaultValue }) =>
    defaultValue?.kind === Kind.INT ? [[variable.name.value, Number(defaultValue.value)] as const] : [],
  );
  const fragments = document.definitions.filter((node) => node.kind === Kind.FRAGMENT_DEFINITION);
  const walk: Walk = {
    schema,
    fragments: new Map(fragments.map((fragment) => [fragment.name.value, fragment])),
    // A variable that is not given has its default, which may be the larger one.
    variables: { ...Object.fromEntries(defaults), ...variables },
    isMutation: operation.operation === 'mutation',
    mutations: 0,
    asked: new Set(),
    selections: 0,
    aliases: 0,
    cost: 0,
  };
  visit(walk, operation.selectionSet, root, 1, 1);
}

/** Whether a document asks about the schema itself; `__typename` says nothing that its answer does not. */
export function introspects(document: DocumentNode): boolean {
  let found = false;
  visitNodes(document, {
    Field: (node) => {
      found ||= node.name.value === '__schema' || node.name.value === '__type';
      return found ? BREAK : undefined;
    },
  });
  return found;
}
