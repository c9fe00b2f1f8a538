import { AppError } from '@sallyport/schema';
import { defaultFieldResolver, type GraphQLFieldResolver, type GraphQLSchema, isObjectType } from 'graphql';
import type { FieldAccess } from './access/field-permissions.ts';
import { isPermittedSomewhere } from './access/rights.ts';
import { type Context, isAuthenticated } from './context.ts';

const rootTypes: ReadonlySet<string> = new Set(['Query', 'Mutation', 'Subscription']);

/** The row for a field; fields of root types have no default. */
export function accessOf(
  table: Readonly<Record<string, FieldAccess>>,
  type: string,
  field: string,
): FieldAccess | undefined {
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

type Resolver = GraphQLFieldResolver<unknown, Context>;

function guard(resolve: Resolver, access: FieldAccess, coordinate: string): Resolver {
  return (source, args: Record<string, unknown>, ctx, info) => {
    check(access, ctx, args, coordinate);
    return resolve(source, args, ctx, info);
  };
}

/**
 * Puts the permission table in front of every resolver of the schema, the default ones too. Throws if a field has no
 * row, so a field that was forgotten is a process that does not start.
 */
export function enforceFieldPermissions(
  schema: GraphQLSchema,
  table: Readonly<Record<string, FieldAccess>>,
): GraphQLSchema {
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
      field.resolve = guard(field.resolve ?? defaultFieldResolver, access, coordinate);
      // A subscription is checked when it starts, not only when its first event comes.
      if (field.subscribe !== undefined) field.subscribe = guard(field.subscribe, access, coordinate);
    }
  }
  if (missing.length > 0) {
    throw new AppError('INTERNAL', { internal: `no row in access/field-permissions.ts: ${missing.join(', ')}` });
  }
  return schema;
}
