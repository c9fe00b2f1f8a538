/** An operation for each field of the root types, with arguments that fit the schema and change nothing. */
import {
  type GraphQLArgument,
  type GraphQLField,
  type GraphQLInputType,
  type GraphQLSchema,
  getNamedType,
  isEnumType,
  isInputObjectType,
  isLeafType,
  isListType,
  isNonNullType,
  isScalarType,
} from 'graphql';

export type RootName = 'Query' | 'Mutation' | 'Subscription';

export interface Operation {
  /** `Query.user`. */
  readonly coordinate: string;
  readonly field: string;
  readonly root: RootName;
  readonly document: string;
  /** Whether it names one object by its id. */
  readonly addressesOne: boolean;
  variables(id: string): Record<string, unknown>;
}

const scalars: Readonly<Record<string, unknown>> = { String: 'x', Int: 1, Float: 1, Boolean: false, JSON: {} };

/** A value of the type; what need not be given is left out, but for `dryRun`, which is true. */
function valueOf(type: GraphQLInputType, id: string): unknown {
  if (isNonNullType(type)) return valueOf(type.ofType, id);
  if (isListType(type)) return [valueOf(type.ofType, id)];
  if (isEnumType(type)) return type.getValues()[0]?.name;
  if (isInputObjectType(type)) {
    const fields = Object.values(type.getFields());
    const given = fields.filter(({ name, type: of }) => name === 'dryRun' || isNonNullType(of));
    return Object.fromEntries(given.map(({ name, type: of }) => [name, name === 'dryRun' ? true : valueOf(of, id)]));
  }
  if (!isScalarType(type)) throw new Error(`no value of ${String(type)}`);
  if (type.name === 'ID') return id;
  if (type.name.startsWith('DateTime')) return new Date(Date.now() + 3_600_000).toISOString();
  if (!Object.hasOwn(scalars, type.name)) throw new Error(`no value of the scalar ${type.name}`);
  return scalars[type.name];
}

function namesObject({ name, type }: GraphQLArgument): boolean {
  if (name === 'id') return true;
  const named = getNamedType(type);
  return name === 'input' && isInputObjectType(named) && Object.hasOwn(named.getFields(), 'id');
}

function operationOf(root: RootName, field: GraphQLField<unknown, unknown>): Operation {
  const needed = field.args.filter(({ type }) => isNonNullType(type));
  const declared = needed.map(({ name, type }) => `$${name}: ${String(type)}`).join(', ');
  const passed = needed.map(({ name }) => `${name}: $${name}`).join(', ');
  const selection = isLeafType(getNamedType(field.type)) ? '' : ' { __typename }';
  const of = needed.length === 0 ? ['', ''] : [`(${declared})`, `(${passed})`];
  return {
    coordinate: `${root}.${field.name}`,
    field: field.name,
    root,
    document: `${root.toLowerCase()} ${of[0]} { ${field.name}${of[1]}${selection} }`,
    addressesOne: needed.some(namesObject),
    variables: (id) => Object.fromEntries(needed.map(({ name, type }) => [name, valueOf(type, id)])),
  };
}

export function operationsOf(schema: GraphQLSchema): readonly Operation[] {
  const roots = ['Query', 'Mutation', 'Subscription'] as const;
  return roots.flatMap((root) => {
    const type = schema.getType(root);
    if (type === undefined || !('getFields' in type) || isInputObjectType(type)) throw new Error(`no type ${root}`);
    return Object.values(type.getFields()).map((field) => operationOf(root, field));
  });
}
