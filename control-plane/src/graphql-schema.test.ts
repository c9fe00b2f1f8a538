import { AppError, type Permission, permissions } from '@sallyport/schema';
import { createLog, systemClock } from '@sallyport/schema/platform';
import {
  buildSchema,
  getIntrospectionQuery,
  getOperationAST,
  type GraphQLSchema,
  isEnumType,
  isInputObjectType,
  isObjectType,
  parse,
  specifiedRules,
  validate,
} from 'graphql';
import { describe, expect, test } from 'vitest';
import { fieldPermissions } from './access/field-permissions.ts';
import { noRights } from './access/rights.ts';
import { anonymousContext, type Context, createContext } from './context.ts';
import { assertWithinLimits, queryAliasesMax } from './graphql-limits.ts';
import { accessOf, enforceFieldPermissions } from './graphql-permissions.ts';
import { printSchemaSdl } from './graphql-schema.ts';

const schema = buildSchema(printSchemaSdl());
const types = Object.values(schema.getTypeMap()).filter((type) => !type.name.startsWith('__'));
const objectTypes = types.filter(isObjectType);

describe('the schema', () => {
  test('every field, argument, input and enum value says what it is', () => {
    const silent = types.flatMap((type) => {
      if (isEnumType(type)) {
        return type.getValues().flatMap((value) => (value.description ? [] : [`${type.name}.${value.name}`]));
      }
      if (!isObjectType(type) && !isInputObjectType(type)) return [];
      return Object.values(type.getFields()).flatMap((field) => [
        ...(field.description ? [] : [`${type.name}.${field.name}`]),
        ...('args' in field ? [...field.args] : []).flatMap((arg) =>
          arg.description ? [] : [`${type.name}.${field.name}(${arg.name})`],
        ),
      ]);
    });
    const unnamed = types
      .filter((type) => !type.description && !['Query', 'Mutation', 'Subscription'].includes(type.name))
      .map((type) => type.name);
    expect([...silent, ...unnamed]).toEqual([]);
  });

  test('every field has a row in the permission table', () => {
    const fields = objectTypes.flatMap((type) => Object.keys(type.getFields()).map((field) => [type.name, field]));
    const without = fields.filter(([type = '', field = '']) => accessOf(fieldPermissions, type, field) === undefined);
    expect(without).toEqual([]);
  });

  test('every row of the permission table is of a field that exists', () => {
    const dangling = Object.keys(fieldPermissions).filter((row) => {
      const [name = '', field] = row.split('.');
      const type = objectTypes.find((candidate) => candidate.name === name);
      return type === undefined || (field !== undefined && type.getFields()[field] === undefined);
    });
    expect(dangling).toEqual([]);
    const unknown = Object.values(fieldPermissions).filter(
      (access) => access !== 'public' && access !== 'authenticated' && !permissions.includes(access),
    );
    expect(unknown).toEqual([]);
  });

  test('only the bootstrap is public', () => {
    const open = Object.entries(fieldPermissions).filter(([, access]) => access === 'public');
    expect(open.map(([row]) => row)).toEqual(['Mutation.bootstrap', 'BootstrapPayload']);
  });

  test('every mutation takes one input, and every list pages by cursor', () => {
    const mutations = Object.values(schema.getMutationType()?.getFields() ?? {});
    expect(mutations.filter((field) => field.args.map((arg) => arg.name).join() !== 'input')).toEqual([]);
    const connections = objectTypes.flatMap((type) =>
      Object.values(type.getFields()).filter((field) => String(field.type).includes('Connection')),
    );
    expect(connections.length).toBeGreaterThan(5);
    const unpaged = connections.filter((field) => !field.args.some((arg) => arg.name === 'after'));
    expect(unpaged.map((field) => field.name)).toEqual([]);
  });

  test('a schema with a field that has no row is not served', () => {
    const small = buildSchema('type Query { me: String, forgotten: String }');
    expect(() => enforceFieldPermissions(small, { 'Query.me': 'public' })).toThrow('Query.forgotten');
  });

  test('an object type default never covers a root field, nor a name from the prototype', () => {
    expect(accessOf({ Query: 'public' }, 'Query', 'anything')).toBeUndefined();
    expect(accessOf({}, 'toString', 'length')).toBeUndefined();
  });
});

describe('field permissions', () => {
  const deps = { clock: systemClock, log: createLog({ name: 'test', level: 'silent' }) };
  const guarded = enforceFieldPermissions(buildSchema('type Query { list: [String], one(id: ID): String }'), {
    'Query.list': 'grant:read',
    'Query.one': 'grant:read',
  });
  const resolve = (field: string, args: object, held: readonly Permission[] | undefined): unknown => {
    const rights = { ...noRights, permissions: new Set(held) };
    const actor = { principalId: 'p', name: 'p', kind: 'user', keyId: 'k', ...rights } as const;
    const ctx = held === undefined ? anonymousContext(deps) : createContext(actor, deps);
    const source = { list: ['a'], one: 'b' };
    return guarded
      .getQueryType()
      ?.getFields()
      [field]?.resolve?.(source, args, ctx, { fieldName: field } as never);
  };

  test('a missing permission is forbidden, and for one object looks as if it were not there', () => {
    expect(() => resolve('list', {}, [])).toThrow(expect.objectContaining({ code: 'FORBIDDEN' }));
    expect(() => resolve('one', { id: 'x' }, [])).toThrow(expect.objectContaining({ code: 'NOT_FOUND' }));
    expect(resolve('list', {}, ['grant:read'])).toEqual(['a']);
  });

  test('without credentials nothing but public fields answers', () => {
    expect(() => resolve('list', {}, undefined)).toThrow(expect.objectContaining({ code: 'UNAUTHENTICATED' }));
  });
});

describe('every field of every type', () => {
  const deps = { clock: systemClock, log: createLog({ name: 'test', level: 'silent' }) };
  const guarded = enforceFieldPermissions(buildSchema(printSchemaSdl()), fieldPermissions);
  const fields = Object.values(guarded.getTypeMap())
    .filter(isObjectType)
    .filter((type) => !type.name.startsWith('__'))
    .flatMap((type) => Object.values(type.getFields()).map((field) => [type.name, field] as const));
  const actor = (held: readonly Permission[]) => {
    const rights = { ...noRights, permissions: new Set(held) };
    return createContext({ principalId: 'p', name: 'p', kind: 'user', keyId: 'k', ...rights }, deps);
  };
  const resolved = (field: (typeof fields)[number][1], ctx: Context): string => {
    try {
      void field.resolve?.({}, {}, ctx, { fieldName: field.name, fieldNodes: [] } as never);
      return 'resolved';
    } catch (error) {
      return error instanceof AppError ? error.code : 'failed';
    }
  };

  test('is closed without credentials, and without the permission of its row, and open with it', () => {
    expect(fields.length).toBeGreaterThan(300);
    for (const [type, field] of fields) {
      const access = accessOf(fieldPermissions, type, field.name);
      const where = `${type}.${field.name}`;
      const needed = permissions.filter((permission) => permission === access);
      const others = permissions.filter((permission) => permission !== access && permission !== 'server:writeOwn');
      const isWriteAll = access === 'server:writeOwn';
      const lacking = actor(isWriteAll ? others.filter((one) => one !== 'server:write') : others);
      expect([where, resolved(field, anonymousContext(deps))]).toEqual([
        where,
        access === 'public' ? 'resolved' : 'UNAUTHENTICATED',
      ]);
      expect([where, resolved(field, lacking)]).toEqual([where, needed.length === 0 ? 'resolved' : 'FORBIDDEN']);
      expect([where, resolved(field, actor(needed))]).toEqual([where, 'resolved']);
    }
  });
});

describe('limits', () => {
  const small = buildSchema(`
    type Query { items(first: Int): ItemConnection, name: String }
    type ItemConnection { edges: [ItemEdge!]! }
    type ItemEdge { node: Item! }
    type Item { name: String, items(first: Int): ItemConnection, parent: Item }`);
  const check = (of: GraphQLSchema, query: string, variables = {}): void => {
    const document = parse(query);
    const operation = getOperationAST(document);
    if (!operation) throw new Error('no operation');
    assertWithinLimits(of, document, operation, variables);
  };
  const tooComplex = expect.objectContaining({ code: 'QUERY_TOO_COMPLEX' });
  const nested = (depth: number): string => `${'parent { '.repeat(depth)}name${' }'.repeat(depth)}`;

  test('an ordinary console query is well within them', () => {
    expect(() => check(small, '{ items(first: 200) { edges { node { name parent { name } } } } }')).not.toThrow();
  });
  test('a query that is too deep is refused', () => {
    expect(() => check(small, `{ items { edges { node { ${nested(20)} } } } }`)).toThrow(tooComplex);
  });
  test('pages within pages cost their product, also when sized by variables', () => {
    const query = `query ($n: Int) { items(first: $n) { edges { node { items(first: $n) { edges { node { name } } } } } } }`;
    expect(() => check(small, query, { n: 10 })).not.toThrow();
    expect(() => check(small, query, { n: 200 })).toThrow(tooComplex);
  });
  test('a page sized by the default of a variable costs what it holds', () => {
    const query = `query ($n: Int = 200) { items(first: $n) { edges { node { items(first: $n) { edges { node { name } } } } } } }`;
    expect(() => check(small, query)).toThrow(tooComplex);
    expect(() => check(small, query, { n: 10 })).not.toThrow();
  });
  test('aliases are counted over the whole operation, through fragments too', () => {
    const aliases = Array.from({ length: queryAliasesMax + 1 }, (_, index) => `a${index}: name`).join(' ');
    expect(() => check(small, `{ ...f } fragment f on Query { ${aliases} }`)).toThrow(tooComplex);
  });
  test('fragments that multiply are refused quickly', () => {
    const levels = Array.from({ length: 30 }, (_, n) => `fragment f${n} on Query { ...f${n + 1} ...f${n + 1} }`);
    expect(() => check(small, `{ ...f0 } ${levels.join(' ')} fragment f30 on Query { name }`)).toThrow(tooComplex);
  });
  test('the introspection query of every tool passes, a nest of it does not', () => {
    const query = getIntrospectionQuery();
    expect(() => check(schema, query)).not.toThrow();
    expect(validate(schema, parse(query), specifiedRules)).toEqual([]);
    const nest =
      '{ __schema { types { fields { type { fields { type { fields { type { fields { name } } } } } } } } } }';
    expect(validate(schema, parse(nest), specifiedRules)).not.toEqual([]);
  });
});
