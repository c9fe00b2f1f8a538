import { AppError } from '@sallyport/schema';
import {
  defaultFieldResolver,
  type DirectiveNode,
  getDirectiveValues,
  getNamedType,
  type GraphQLFieldResolver,
  GraphQLIncludeDirective,
  type GraphQLNamedType,
  type GraphQLResolveInfo,
  type GraphQLSchema,
  GraphQLSkipDirective,
  isAbstractType,
  isObjectType,
  type SelectionSetNode,
} from 'graphql';
import type { FieldAccess } from './access/field-permissions.ts';
import { isPermittedSomewhere } from './access/rights.ts';
import { type Context, isAuthenticated } from './context.ts';

type Table = Readonly<Record<string, FieldAccess>>;

const rootTypes: ReadonlySet<string> = new Set(['Query', 'Mutation', 'Subscription']);

/** The row for a field; fields of root types have no default. */
export function accessOf(table: Table, type: string, field: string): FieldAccess | undefined {
  const own = Object.hasOwn(table, `${type}.${field}`) ? table[`${type}.${field}`] : undefined;
  if (own !== undefined || rootTypes.has(type)) return own;
  return Object.hasOwn(table, type) ? table[type] : undefined;
}

/** A field that addresses one object by id answers "forbidden" as it answers "unknown". */
function addressesOneObject(args: Readonly<Record<string, unknown>>): boolean {
  if (typeof args['id'] === 'string') return true;
  const input = args['input'];
  return typeof input === 'object' && input !== null && 'id' in input;
}

/** A permission that may hold on some servers is enough here: which ones, the service sees to. */
function check(access: FieldAccess, ctx: Context, args: Readonly<Record<string, unknown>>, coordinate: string): void {
  if (access === 'public') return;
  if (!isAuthenticated(ctx)) throw new AppError('UNAUTHENTICATED');
  if (access === 'authenticated' || isPermittedSomewhere(ctx.actor, access)) return;
  const internal = `${ctx.actor.principalId} lacks ${access} for ${coordinate}`;
  throw new AppError(addressesOneObject(args) ? 'NOT_FOUND' : 'FORBIDDEN', { internal });
}

/** The parts of an answer that are asked for, by the type that they are of: what is skipped is not. */
function* selected(
  info: GraphQLResolveInfo,
  of: GraphQLNamedType,
  set: SelectionSetNode,
): Generator<{ readonly type: string; readonly field: string }> {
  const types = isAbstractType(of) ? info.schema.getPossibleTypes(of) : isObjectType(of) ? [of] : [];
  for (const selection of set.selections) {
    if (isSkipped(info, selection)) continue;
    if (selection.kind === 'Field') {
      for (const type of types) {
        const field = type.getFields()[selection.name.value];
        if (field === undefined) continue;
        yield { type: type.name, field: field.name };
        if (selection.selectionSet) yield* selected(info, getNamedType(field.type), selection.selectionSet);
      }
      continue;
    }
    const part = selection.kind === 'InlineFragment' ? selection : info.fragments[selection.name.value];
    const named = part?.typeCondition === undefined ? of : info.schema.getType(part.typeCondition.name.value);
    if (part !== undefined && named !== undefined) yield* selected(info, named, part.selectionSet);
  }
}

function isSkipped(info: GraphQLResolveInfo, node: { readonly directives?: readonly DirectiveNode[] }): boolean {
  const valueOf = (directive: typeof GraphQLSkipDirective): unknown =>
    getDirectiveValues(directive, node, info.variableValues)?.['if'];
  return valueOf(GraphQLSkipDirective) === true || valueOf(GraphQLIncludeDirective) === false;
}

/**
 * A change is made before its answer is read, so whoever may not read the answer is refused before: FORBIDDEN means that
 * nothing was changed.
 */
function checkAnswer(table: Table, ctx: Context, info: GraphQLResolveInfo): void {
  for (const { selectionSet } of info.fieldNodes) {
    if (selectionSet === undefined) continue;
    for (const { type, field } of selected(info, getNamedType(info.returnType), selectionSet)) {
      const access = accessOf(table, type, field);
      if (access === undefined) throw new AppError('INTERNAL', { internal: `${type}.${field} has no row` });
      check(access, ctx, {}, `${type}.${field}`);
    }
  }
}

type Resolver = GraphQLFieldResolver<unknown, Context>;

function guard(resolve: Resolver, table: Table, access: FieldAccess, coordinate: string): Resolver {
  const isChange = coordinate.startsWith('Mutation.');
  return (source, args: Record<string, unknown>, ctx, info) => {
    check(access, ctx, args, coordinate);
    if (isChange) checkAnswer(table, ctx, info);
    return resolve(source, args, ctx, info);
  };
}

/**
 * Puts the permission table in front of every resolver of the schema, the default ones too. Throws if a field has no
 * row, so a field that was forgotten is a process that does not start.
 */
export function enforceFieldPermissions(schema: GraphQLSchema, table: Table): GraphQLSchema {
  const missing: string[] = [];
  for (const type of Object.values(schema.getTypeMap())) {
    if (!isObjectType(type) || type.name.startsWith('__')) continue;
    for (const field of Object.values(type.getFields())) {
      const coordinate = `${type.name}.${field.name}`;
      const access = accessOf(table, type.name, field.name);
      if (access === undefined) {
        missing.push(coordinate);
        continue;
      }
      field.resolve = guard(field.resolve ?? defaultFieldResolver, table, access, coordinate);
      // A subscription is checked when it starts, not only when its first event comes.
      if (field.subscribe !== undefined) field.subscribe = guard(field.subscribe, table, access, coordinate);
    }
  }
  if (missing.length > 0) {
    throw new AppError('INTERNAL', { internal: `no row in access/field-permissions.ts: ${missing.join(', ')}` });
  }
  return schema;
}
