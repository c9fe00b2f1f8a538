import { type ControlPlane, parseConfig, startControlPlane } from '@sallyport/control-plane';
import { type Clock, createLog } from '@sallyport/schema/platform';
import { createMigratedDatabase } from './postgres.ts';

export interface GraphqlFailure {
  readonly message: string;
  readonly path?: readonly (string | number)[];
  readonly extensions: {
    readonly code: string;
    readonly violations?: readonly { readonly path: string; readonly message: string }[];
  };
}

export interface GraphqlAnswer {
  readonly status: number;
  // oxlint-disable-next-line typescript/no-explicit-any -- the query decides the shape of its answer
  readonly data: any;
  readonly errors: readonly GraphqlFailure[];
}

/** A control plane of its own on free ports, with an owner, over a database of its own. */
export interface TestControlPlane {
  readonly controlPlane: ControlPlane;
  readonly databaseUrl: string;
  readonly graphqlUrl: string;
  readonly syncUrl: string;
  /** Of the first owner; its scope is `api`. */
  readonly ownerKey: string;
  readonly ownerId: string;
  /** The user who answers for the first owner. */
  readonly userId: string;
  /** Asks as the first owner, or as the holder of another key; null asks without any. */
  ask(query: string, variables?: Record<string, unknown>, key?: string | null): Promise<GraphqlAnswer>;
  stop(): Promise<void>;
}

export const testSecretKey = 'a secret key of the tests, 32 characters and more';
export const testBootstrapToken = 'a bootstrap token of the tests, which nobody would guess';

export interface TestControlPlaneOptions {
  /** Default: a fresh one. */
  readonly databaseUrl?: string;
  readonly clock?: Clock;
  readonly environment?: Readonly<Record<string, string>>;
  /** Default true. */
  readonly bootstrap?: boolean;
}

export async function askGraphql(
  url: string,
  query: string,
  variables: Record<string, unknown> = {},
  key: string | null = null,
  operationName?: string,
): Promise<GraphqlAnswer> {
  const response = await fetch(url, {
    method: 'POST',
    headers: { 'content-type': 'application/json', ...(key === null ? {} : { authorization: `Bearer ${key}` }) },
    body: JSON.stringify({ query, variables, ...(operationName === undefined ? {} : { operationName }) }),
  });
  const body = (await response.json()) as { data?: unknown; errors?: GraphqlFailure[] };
  return { status: response.status, data: body.data, errors: body.errors ?? [] };
}

export async function startTestControlPlane(options: TestControlPlaneOptions = {}): Promise<TestControlPlane> {
  const databaseUrl = options.databaseUrl ?? (await createMigratedDatabase()).url;
  const parsed = parseConfig({
    DATABASE_URL: databaseUrl,
    SALLYPORT_SECRET_KEY: testSecretKey,
    SALLYPORT_BOOTSTRAP_TOKEN: testBootstrapToken,
    SALLYPORT_LISTEN_PORT: '0',
    SALLYPORT_OPERATIONS_PORT: '0',
    SALLYPORT_DRAIN_TIMEOUT_MS: '1000',
    SALLYPORT_DATABASE_CONNECTIONS_MAX: '5',
    ...options.environment,
  });
  if (!parsed.ok) throw new Error(parsed.problems.join('\n'));
  const log = createLog({ name: 'test', level: 'error' });
  const controlPlane = await startControlPlane(parsed.config, {
    log,
    ...(options.clock === undefined ? {} : { clock: options.clock }),
  });
  const graphqlUrl = controlPlane.graphqlUrl ?? '';
  let owner = { secret: '', serviceAccountId: '', userId: '' };
  if (options.bootstrap !== false) {
    const query = `mutation ($token: String!) {
      bootstrap(input: { token: $token }) { secret serviceAccountId userId }
    }`;
    const answer = await askGraphql(graphqlUrl, query, { token: testBootstrapToken });
    if (answer.errors.length > 0) throw new Error(JSON.stringify(answer.errors));
    owner = answer.data.bootstrap;
  }
  return {
    controlPlane,
    databaseUrl,
    graphqlUrl,
    syncUrl: controlPlane.syncUrl ?? '',
    ownerKey: owner.secret,
    ownerId: owner.serviceAccountId,
    userId: owner.userId,
    ask: (query, variables, key = owner.secret) => askGraphql(graphqlUrl, query, variables, key),
    stop: () => controlPlane.stop(),
  };
}
