import { AppError } from '@sallyport/schema';
import { type GraphQLSchema, lexicographicSortSchema, printSchema } from 'graphql';
import { buildSchemaSync } from 'type-graphql';
import { fieldPermissions } from './access/field-permissions.ts';
import { enforceFieldPermissions } from './graphql-permissions.ts';
import { resolverClasses } from './resolvers.ts';
import { createSignals, type Signals } from './signals.ts';

export interface ApiSchemaOptions {
  /** One object of each resolver class. */
  readonly resolvers: readonly object[];
  readonly signals: Signals;
}

function buildPlainSchema(options: ApiSchemaOptions): GraphQLSchema {
  return buildSchemaSync({
    resolvers: [...resolverClasses],
    orphanedTypes: [],
    // Services check their input themselves and report all violations in the catalogue's shape.
    validate: false,
    pubSub: options.signals,
    container: {
      get: (wanted) => {
        const found = options.resolvers.find((resolver) => resolver.constructor === wanted);
        if (found === undefined) throw new AppError('INTERNAL', { internal: `no resolver object of ${wanted.name}` });
        return found;
      },
    },
  });
}

/** The API, with the permission table in front of every field. */
export function buildApiSchema(options: ApiSchemaOptions): GraphQLSchema {
  for (const wanted of resolverClasses) {
    if (!options.resolvers.some((resolver) => resolver.constructor === wanted)) {
      throw new AppError('INTERNAL', { internal: `no resolver object of ${wanted.name}` });
    }
  }
  return enforceFieldPermissions(buildPlainSchema(options), fieldPermissions);
}

/** The schema definition, sorted, as it is checked in at `schema/generated/schema.graphql`. */
export function printSchemaSdl(): string {
  const schema = buildPlainSchema({ resolvers: [], signals: createSignals() });
  return `${printSchema(lexicographicSortSchema(schema))}\n`;
}
