import type { Import, SourceFile } from './source-tree.ts';

/** What is wrong with an import, or undefined. */
type ImportRule = (file: SourceFile, imported: Import) => string | undefined;

const packagesOfOurs: Readonly<Record<string, readonly string[]>> = {
  schema: [],
  'control-plane': ['schema'],
  'data-plane': ['schema'],
  cli: ['schema', 'control-plane', 'data-plane'],
  tests: ['schema', 'control-plane', 'data-plane', 'cli'],
};

/** `schema` imports no package of ours, the planes never import each other, nothing but tests imports tests. */
export const packageFence: ImportRule = (file, { specifier, target }) => {
  const ours = /^@sallyport\/([\w-]+)/.exec(specifier)?.[1];
  const reached = ours ?? target?.split('/')[0];
  if (reached === undefined || reached === file.packageName || !Object.hasOwn(packagesOfOurs, reached))
    return undefined;
  if (target !== undefined) {
    return file.isTest && target.startsWith('tests/kit/') ? undefined : `leaves its package by a path: ${specifier}`;
  }
  return packagesOfOurs[file.packageName]?.includes(reached) ? undefined : `may not import ${specifier}`;
};

/** The contracts know nothing of the platform folder. */
export const contractFence: ImportRule = (file, { specifier, target }) =>
  file.path.startsWith('schema/src/') &&
  !file.path.startsWith('schema/src/platform/') &&
  !file.isTest &&
  (target?.startsWith('schema/src/platform/') || /^(pino|undici|bullmq|ioredis|pg|prom-client)$/.test(specifier))
    ? `the contracts may not import ${specifier}`
    : undefined;

const slices = new Set([
  'identity',
  'oauth',
  'access',
  'catalog',
  'policy',
  'inspection',
  'capture',
  'credentials',
  'fleet',
  'audit',
]);
/** Reads every slice's tables, to compile the configuration of the fleet. */
const readsAllTables = new Set(['fleet/compile-snapshot.ts', 'fleet/read-configuration.ts']);

function inControlPlane(path: string | undefined): { readonly slice: string; readonly local: string } | undefined {
  const local = path?.startsWith('control-plane/src/') ? path.slice('control-plane/src/'.length) : undefined;
  return local === undefined ? undefined : { slice: local.includes('/') ? (local.split('/')[0] ?? '') : '', local };
}

/** A slice calls another slice's service, never its tables. */
export const tablesFence: ImportRule = (file, { target }) => {
  const from = inControlPlane(file.path);
  const to = inControlPlane(target);
  if (from === undefined || to === undefined || file.isTest || !to.local.endsWith('.tables.ts')) return undefined;
  if (from.slice === to.slice || to.slice === 'database' || readsAllTables.has(from.local)) return undefined;
  // Foreign keys of the schema: tables may point at tables.
  if (from.local.endsWith('.tables.ts') || from.local === 'database/tables.ts') return undefined;
  return `reads the tables of ${to.slice}; call its service`;
};

/** resolver → service → tables, and never back. */
export const layerFence: ImportRule = (file, { specifier, target, isTypeOnly }) => {
  const from = inControlPlane(file.path);
  const to = inControlPlane(target);
  // A row's type may pass through; its queries may not.
  if (from === undefined || file.isTest || isTypeOnly) return undefined;
  const reachesTables = to?.local.endsWith('.tables.ts') === true || specifier.startsWith('drizzle-orm');
  if (from.local.endsWith('.resolver.ts') && reachesTables) return 'a resolver goes through its service';
  const isBelow = from.local.endsWith('.service.ts') || from.local.endsWith('.tables.ts');
  if (isBelow && (to?.local.endsWith('.resolver.ts') === true || to?.local.endsWith('.graphql.ts') === true)) {
    return 'a service knows nothing of GraphQL';
  }
  return undefined;
};

/** `audit` and `access` serve all slices and import none but each other; `context.ts` imports only those two. */
export const foundationFence: ImportRule = (file, { target }) => {
  const from = inControlPlane(file.path);
  const to = inControlPlane(target);
  if (from === undefined || to === undefined || file.isTest || !slices.has(to.slice)) return undefined;
  const isFoundation = from.slice === 'audit' || from.slice === 'access' || from.local === 'context.ts';
  // Resolvers and tables point at other nouns by their types and keys; the rules are about who calls whom.
  if (!isFoundation || /\.(tables|graphql|resolver)\.ts$/.test(from.local)) return undefined;
  return to.slice === 'audit' || to.slice === 'access' ? undefined : `may not import the slice ${to.slice}`;
};

const dataPlaneMay: Readonly<Record<string, readonly string[]>> = {
  pipeline: ['pipeline', 'mcp', 'bridge', 'upstream', 'telemetry', 'runtime/runtime.ts', 'runtime/runtime-store.ts'],
  inspection: ['inspection', 'thread-pool.ts'],
  mcp: ['mcp'],
  bridge: ['bridge', 'mcp', 'runtime/runtime.ts'],
  upstream: ['upstream', 'mcp', 'bridge', 'runtime/runtime.ts'],
  telemetry: ['telemetry', 'runtime/runtime.ts', 'thread-pool.ts'],
  runtime: ['runtime'],
  peers: ['peers', 'pipeline/peer-link.ts', 'upstream/connections.ts', 'bridge', 'mcp'],
};

export const dataPlaneFence: ImportRule = (file, { target }) => {
  const prefix = 'data-plane/src/';
  if (!file.path.startsWith(prefix) || !target?.startsWith(prefix) || file.isTest) return undefined;
  const from = file.path.slice(prefix.length);
  const to = target.slice(prefix.length);
  const allowed = dataPlaneMay[from.includes('/') ? (from.split('/')[0] ?? '') : ''];
  if (allowed === undefined) return undefined;
  return allowed.some((place) => to === place || to.startsWith(`${place}/`)) ? undefined : `may not import ${to}`;
};

const stages = [
  'receive',
  'authenticate',
  'route',
  'authorize',
  'admit',
  'inspect-request',
  'forward',
  'inspect-response',
  'record',
].map((stage) => `data-plane/src/pipeline/${stage}.ts`);

/** Stages meet in `pipeline.ts` alone. */
export const stageFence: ImportRule = (file, { target }) =>
  stages.includes(file.path) && target !== undefined && stages.includes(target)
    ? `a stage imports the stage ${target}`
    : undefined;

/** The bridges are state machines and the pipeline is free of both runtimes' types: no sockets in either. */
export const socketFence: ImportRule = (file, { specifier }) =>
  /^data-plane\/src\/(pipeline|bridge|mcp)\//.test(file.path) &&
  !file.isTest &&
  /^(node:(http|https|http2|net|tls|dgram)|undici|ws)$/.test(specifier)
    ? `knows ${specifier}; sockets belong to the adapters at the edge`
    : undefined;

interface Home {
  readonly packages: RegExp;
  readonly files: RegExp;
}

const homes: readonly Home[] = [
  {
    packages:
      /^(@apollo\/server|graphql|graphql-ws|graphql-scalars|type-graphql|class-validator|@graphql-yoga\/.*)(\/|$)/,
    files:
      /^control-plane\/src\/(.*\/)?(graphql(-[\w-]+)?\.ts|signals\.ts|[\w-]+\.(graphql|resolver)\.ts)$|^control-plane\/src\/graphql\//,
  },
  {
    packages: /^drizzle-orm(\/|$)/,
    files:
      /^control-plane\/src\/(database\/.*|signals\.ts|.*\.(tables|service|job)\.ts|fleet\/.*|audit\/.*|catalog\/.*)$/,
  },
  { packages: /^postgres$/, files: /^control-plane\/src\/database\// },
  {
    packages: /^(bullmq|ioredis|pg)(\/|$)/,
    files:
      /^schema\/src\/platform\/queues[\w-]*\.ts$|^(control|data)-plane\/src\/(jobs|.*\/(audit-spool|audit-shipper|metrics|admit|publish-snapshot))\.ts$/,
  },
  {
    packages: /^ws$/,
    files: /\/(sync-server|sync-connection|sync-client|sync-socket|graphql(-[\w-]+)?)\.ts$/,
  },
  {
    packages: /^@modelcontextprotocol\//,
    files:
      /^schema\/src\/platform\/discover[\w-]*\.ts$|^control-plane\/src\/catalog\/|^data-plane\/src\/mcp\/|^cli\/src\/(start\/example-|connect\/)/,
  },
  { packages: /^oidc-provider$/, files: /^control-plane\/src\/oauth\// },
  { packages: /^openid-client$/, files: /^control-plane\/src\/(identity\/idp|credentials)\// },
  { packages: /^jose$/, files: /^control-plane\/src\/(identity\/idp|oauth|credentials)\// },
  { packages: /^pino$/, files: /^schema\/src\/platform\/log\.ts$/ },
  {
    packages: /^undici$/,
    files: /^schema\/src\/platform\/guarded-egress[\w-]*\.ts$|^data-plane\/src\/upstream\//,
  },
];

/** A package is imported where it lives and nowhere else, until a decision record moves the fence. */
export const packageHome: ImportRule = (file, { specifier }) => {
  if (file.isTest) return undefined;
  const home = homes.find(({ packages }) => packages.test(specifier));
  return home === undefined || home.files.test(file.path) ? undefined : `${specifier} does not live here`;
};

const dialect = /^@modelcontextprotocol\/(client|server|sdk)/;
const liveParts = new Set(['Client', 'Server', 'McpServer', 'Protocol']);

/** The data plane uses the SDK's pure helpers, never its Server, Client or transports: they rebuild envelopes. */
export function sdkPartsInTheDataPlane(file: SourceFile): string[] {
  if (!file.path.startsWith('data-plane/src/') || file.isTest) return [];
  const imported = /import\s*(?:type\s*)?\{([^}]*)\}\s*from\s*'([^']+)'/g;
  return [...file.text.matchAll(imported)]
    .filter(([, , specifier]) => dialect.test(specifier ?? ''))
    .flatMap(([, names]) => (names ?? '').split(',').map((name) => name.trim().replace(/^type\s+/, '')))
    .filter((name) => liveParts.has(name) || name.endsWith('Transport'))
    .map((name) => `${file.path} imports ${name} of the SDK`);
}

export function importProblems(files: readonly SourceFile[], rule: ImportRule): string[] {
  return files.flatMap((file) =>
    file.imports.flatMap((imported) => {
      const problem = rule(file, imported);
      return problem === undefined ? [] : [`${file.path}:${imported.line} ${problem}`];
    }),
  );
}
