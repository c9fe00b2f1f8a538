import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Duplex } from 'node:stream';
import { ApolloServer, type ApolloServerPlugin, HeaderMap } from '@apollo/server';
import { ApolloServerPluginCacheControlDisabled } from '@apollo/server/plugin/disabled';
import { AppError, type ErrorCode, ERRORS, toAppError } from '@sallyport/schema';
import type { Clock, Log } from '@sallyport/schema/platform';
import {
  type DocumentNode,
  type ExecutionArgs,
  getOperationAST,
  GraphQLError,
  type GraphQLFormattedError,
  type GraphQLSchema,
  type OperationDefinitionNode,
  parse,
  specifiedRules,
  validate,
} from 'graphql';
import { handleProtocols, type SubscribePayload } from 'graphql-ws';
import { type Extra, useServer } from 'graphql-ws/use/ws';
import { type WebSocket, WebSocketServer } from 'ws';
import { sameRights } from './access/rights.ts';
import { type Actor, anonymousContext, type Context, createContext, isAuthenticated } from './context.ts';
import { isConnectionFailure } from './database/client.ts';
import { graphqlErrorOf } from './graphql-errors.ts';
import { assertWithinLimits, introspects, queryTokensMax } from './graphql-limits.ts';
import type { GuardedAuthentication } from './identity/guarded-authentication.ts';
import type { ControlPlaneMetrics, GraphqlOperation } from './metrics.ts';

const requestBodyBytesMax = 1024 * 1024;
/** Of a request without credentials, in bytes: it can only introspect, or bootstrap. */
const anonymousBodyBytesMax = 32 * 1024;
const socketFrameBytesMax = 256 * 1024;
const socketsMax = 1_000;
const subscriptionsPerSocketMax = 50;
const connectionInitTimeoutMs = 5_000;
const keepAliveIntervalMs = 12_000;
/** How soon an open socket of a revoked key, or of an actor whose roles changed, is closed. */
const reauthenticateIntervalMs = 5_000;
const closedForReauthentication = 4403;

export interface GraphqlOptions {
  readonly schema: GraphQLSchema;
  readonly authentication: Pick<GuardedAuthentication, 'actorFor' | 'assertMayTry' | 'failed'>;
  /** Who asks; null where that cannot be told. */
  readonly addressOf: (request: IncomingMessage) => string | null;
  readonly metrics: Pick<ControlPlaneMetrics, 'graphqlAnswered'>;
  readonly clock: Clock;
  readonly log: Log;
}

/** The GraphQL API on an HTTP server of the caller: POST for queries and mutations, WebSocket for subscriptions. */
export interface GraphqlEndpoint {
  handle(request: IncomingMessage, response: ServerResponse): Promise<void>;
  handleUpgrade(request: IncomingMessage, socket: Duplex, head: Buffer): void;
  /** Open sockets of subscribers. */
  readonly sockets: number;
  stop(): Promise<void>;
}

function bearerOf(header: string | undefined): string | undefined {
  if (header === undefined) return undefined;
  const match = /^Bearer +(\S+)$/i.exec(header);
  if (match?.[1] === undefined) throw new AppError('UNAUTHENTICATED', { internal: 'not a bearer token' });
  return match[1];
}

async function contextFor(options: GraphqlOptions, key: string | undefined, from: string | null): Promise<Context> {
  if (key !== undefined) return createContext(await options.authentication.actorFor(key, from), options);
  // Without a key there is nothing but the bootstrap token to be tried.
  options.authentication.assertMayTry(from);
  return anonymousContext(options);
}

/** What became of a request, for who counts: learnt while it runs. */
interface Observed {
  operation: GraphqlOperation;
  code: ErrorCode | 'OK';
}

/** By the request's actor, which is its own; of the context Apollo makes a copy. */
type Observations = WeakMap<Actor, Observed>;

async function readBody(request: IncomingMessage, bytesMax: number): Promise<string> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of request as AsyncIterable<Buffer>) {
    bytes += chunk.length;
    if (bytes > bytesMax) throw new AppError('BODY_TOO_LARGE');
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString('utf8');
}

/** Only JSON: a browser cannot send it across origins without asking first, so no form can act for a user. */
function assertJsonPost(request: IncomingMessage): void {
  if (request.method !== 'POST') throw new AppError('METHOD_NOT_ALLOWED');
  const type = request.headers['content-type']?.split(';')[0]?.trim().toLowerCase();
  if (type !== 'application/json' || request.headers['content-encoding'] !== undefined) {
    throw new AppError('UNSUPPORTED_MEDIA_TYPE');
  }
}

/** @returns the code answered with */
function answerFailure(response: ServerResponse, thrown: unknown, log: Log): ErrorCode {
  const error = isConnectionFailure(thrown) ? new AppError('NOT_READY', { cause: thrown }) : toAppError(thrown);
  if (error.entry.owner === 'platform') log.error({ err: error.cause ?? error }, 'API failure');
  if (response.headersSent) {
    response.destroy();
    return error.code;
  }
  const { code, publicMessage, violations, entry } = error;
  const extensions = { code, retryable: entry.retryable, ...(violations === undefined ? {} : { violations }) };
  response.writeHead(entry.http, {
    'content-type': 'application/json; charset=utf-8',
    'cache-control': 'no-store',
    ...(entry.http === 401 ? { 'www-authenticate': 'Bearer' } : {}),
    ...(entry.http === 405 ? { allow: 'POST' } : {}),
    ...(entry.http === 429 ? { 'retry-after': '1' } : {}),
    // What is left of a body that was refused is not read.
    ...(entry.http === 413 ? { connection: 'close' } : {}),
  });
  response.end(JSON.stringify({ errors: [{ message: publicMessage, extensions }] }));
  return code;
}

/** The schema is for those who may do something here; to others nothing of it is told, not even by an error. */
function mayLearnSchema({ actor }: Context): boolean {
  return actor.permissions.size + actor.limited.length > 0;
}

/** A document or variable that does not fit the schema: the message suggests names that would. */
function isAboutSchema({ path, extensions }: GraphQLFormattedError): boolean {
  return path === undefined && extensions?.['code'] === 'INVALID_INPUT' && extensions['violations'] === undefined;
}

function assertMayRun(
  schema: GraphQLSchema,
  document: DocumentNode,
  operation: OperationDefinitionNode,
  variables: Readonly<Record<string, unknown>>,
  context: Context,
): void {
  if (!mayLearnSchema(context) && introspects(document)) {
    throw new AppError(isAuthenticated(context) ? 'FORBIDDEN' : 'UNAUTHENTICATED', { internal: 'introspection' });
  }
  assertWithinLimits(schema, document, operation, variables);
}

/** Notes the operation and its first error. */
function observingPlugin(observations: Observations): ApolloServerPlugin<Context> {
  return {
    requestDidStart: async () => ({
      willSendResponse: async ({ response, operation, contextValue }) => {
        const observed = observations.get(contextValue.actor);
        if (observed === undefined) return;
        observed.operation = operation?.operation ?? 'none';
        const [error] = response.body.kind === 'single' ? (response.body.singleResult.errors ?? []) : [];
        if (error !== undefined) observed.code = (error.extensions?.['code'] as ErrorCode | undefined) ?? 'INTERNAL';
      },
    }),
  };
}

function limitsPlugin(): ApolloServerPlugin<Context> {
  return {
    requestDidStart: async () => ({
      didResolveOperation: async ({ schema, document, operation, request, contextValue }) => {
        if (operation === undefined) return;
        try {
          assertMayRun(schema, document, operation, request.variables ?? {}, contextValue);
        } catch (error) {
          const original = toAppError(error);
          const extensions = { http: { status: original.entry.http } };
          throw new GraphQLError(original.publicMessage, { originalError: original, extensions });
        }
      },
      willSendResponse: async ({ response, contextValue }) => {
        if (mayLearnSchema(contextValue) || response.body.kind !== 'single') return;
        const { singleResult } = response.body;
        const errors = singleResult.errors?.map((error) =>
          isAboutSchema(error) ? { ...error, message: 'The query is not valid.' } : error,
        );
        if (errors !== undefined) singleResult.errors = errors;
      },
    }),
  };
}

function createApollo(options: GraphqlOptions, observations: Observations): ApolloServer<Context> {
  const { log } = options;
  return new ApolloServer<Context>({
    schema: options.schema,
    introspection: true,
    persistedQueries: false,
    includeStacktraceInErrorResponses: false,
    stopOnTerminationSignals: false,
    nodeEnv: 'production',
    parseOptions: { maxTokens: queryTokensMax },
    formatError: (formatted, thrown) => graphqlErrorOf(formatted, thrown, log),
    // No answer may be cached, so nothing needs to be reckoned for it.
    plugins: [limitsPlugin(), observingPlugin(observations), ApolloServerPluginCacheControlDisabled()],
    logger: {
      debug: () => {},
      info: () => {},
      warn: (message: unknown) => log.warn({ message }, 'apollo'),
      error: (message: unknown) => log.error({ message }, 'apollo'),
    },
  });
}

interface Served {
  readonly apollo: ApolloServer<Context>;
  readonly observations: Observations;
}

async function serveHttp(
  { apollo, observations }: Served,
  options: GraphqlOptions,
  request: IncomingMessage,
  response: ServerResponse,
): Promise<void> {
  const { authentication, clock, metrics } = options;
  const startedAt = clock.monotonic();
  const observed: Observed = { operation: 'none', code: 'OK' };
  try {
    assertJsonPost(request);
    const from = options.addressOf(request);
    const context = await contextFor(options, bearerOf(request.headers.authorization), from);
    observations.set(context.actor, observed);
    const text = await readBody(request, isAuthenticated(context) ? requestBodyBytesMax : anonymousBodyBytesMax);
    let body: unknown;
    try {
      body = JSON.parse(text);
    } catch {
      throw new AppError('PARSE_ERROR');
    }
    const headers = new HeaderMap();
    headers.set('content-type', 'application/json');
    const accept = request.headers.accept;
    if (accept !== undefined) headers.set('accept', accept);
    const result = await apollo.executeHTTPGraphQLRequest({
      httpGraphQLRequest: { method: 'POST', headers, search: '', body },
      context: () => Promise.resolve(context),
    });
    if (!isAuthenticated(context) && observed.code === 'UNAUTHENTICATED') authentication.failed(from);
    for (const [name, value] of result.headers) response.setHeader(name, value);
    response.setHeader('cache-control', 'no-store');
    response.statusCode = result.status ?? 200;
    if (result.body.kind === 'complete') {
      response.end(result.body.string);
      return;
    }
    for await (const chunk of result.body.asyncIterator) response.write(chunk);
    response.end();
  } catch (error) {
    observed.code = answerFailure(response, error, options.log);
  } finally {
    metrics.graphqlAnswered(observed.operation, observed.code, clock.monotonic() - startedAt);
  }
}

interface SocketState extends Record<PropertyKey, unknown> {
  context?: Context;
  apiKey?: string;
  reauthentication?: NodeJS.Timeout;
}
type SocketExtra = Extra & Partial<SocketState>;

function keyOfParameters(parameters: Readonly<Record<string, unknown>> | undefined): string {
  const value = parameters?.['authorization'] ?? parameters?.['Authorization'];
  const key = typeof value === 'string' ? bearerOf(value) : undefined;
  if (key === undefined) throw new AppError('UNAUTHENTICATED', { internal: 'no authorization in connectionParams' });
  return key;
}

function sameActor(a: Actor, b: Actor): boolean {
  return a.principalId === b.principalId && sameRights(a, b);
}

/** Closes the socket once its key no longer opens, or opens less or more than when it was opened. */
async function reauthenticate(options: GraphqlOptions, extra: SocketExtra): Promise<void> {
  const { context, apiKey, socket, request } = extra;
  const address = options.addressOf(request);
  if (context === undefined || apiKey === undefined) return;
  try {
    if (sameActor(await options.authentication.actorFor(apiKey, null, address), context.actor)) return;
  } catch (error) {
    // The database being away says nothing about the key.
    if (!(error instanceof AppError)) return;
  }
  socket.close(closedForReauthentication, 'Forbidden');
}

/** Checks a subscription as Apollo checks a query: parse, validate, limits. */
function prepare(
  options: GraphqlOptions,
  payload: SubscribePayload,
  contextValue: Context,
): ExecutionArgs | readonly GraphQLError[] {
  const { schema } = options;
  try {
    const document = parse(payload.query, { maxTokens: queryTokensMax });
    const problems = validate(schema, document, specifiedRules);
    if (problems.length > 0) {
      return mayLearnSchema(contextValue) ? problems : [notValid('The query is not valid.')];
    }
    const operation = getOperationAST(document, payload.operationName ?? undefined);
    if (operation === undefined || operation === null) {
      return [notValid('The document does not name the operation to run.')];
    }
    if (operation.operation !== 'subscription') {
      return [new GraphQLError('Send queries and mutations by POST.', { nodes: operation })];
    }
    assertMayRun(schema, document, operation, payload.variables ?? {}, contextValue);
    return {
      schema,
      document,
      contextValue,
      ...(payload.operationName ? { operationName: payload.operationName } : {}),
      ...(payload.variables ? { variableValues: payload.variables } : {}),
    };
  } catch (error) {
    if (error instanceof GraphQLError) return [error];
    const original = toAppError(error);
    return [new GraphQLError(original.publicMessage, { originalError: original })];
  }
}

function serveSockets(options: GraphqlOptions, server: WebSocketServer): { dispose(): void | Promise<void> } {
  const formatted = (errors: readonly GraphQLError[]): GraphQLFormattedError[] =>
    errors.map((error) => graphqlErrorOf(error.toJSON(), error, options.log));
  return useServer<Record<string, unknown>, SocketState>(
    {
      connectionInitWaitTimeout: connectionInitTimeoutMs,
      onConnect: async ({ connectionParams, extra }) => {
        try {
          const apiKey = keyOfParameters(connectionParams);
          const from = options.addressOf(extra.request);
          extra.context = createContext(await options.authentication.actorFor(apiKey, from), options);
          extra.apiKey = apiKey;
        } catch (error) {
          options.log.debug({ err: error }, 'subscription socket refused');
          return false;
        }
        extra.reauthentication = setInterval(() => void reauthenticate(options, extra), reauthenticateIntervalMs);
        extra.reauthentication.unref();
        return true;
      },
      onClose: ({ extra }) => clearInterval(extra.reauthentication),
      onSubscribe: ({ extra, subscriptions }, _id, payload) => {
        if (extra.context === undefined) return [appGraphqlError('UNAUTHENTICATED')];
        if (Object.keys(subscriptions).length > subscriptionsPerSocketMax) return [appGraphqlError('OVERLOADED')];
        return prepare(options, payload, extra.context);
      },
      onError: (_ctx, _id, _payload, errors) => formatted(errors),
      onNext: (_ctx, _id, _payload, _args, { errors, data }) =>
        errors === undefined ? undefined : { ...(data === undefined ? {} : { data }), errors: formatted(errors) },
    },
    server,
    keepAliveIntervalMs,
  );
}

/** Of a document as a whole, not of a place in it. */
function notValid(publicMessage: string): GraphQLError {
  return new GraphQLError(publicMessage, { originalError: new AppError('INVALID_INPUT', { publicMessage }) });
}

function appGraphqlError(code: ErrorCode): GraphQLError {
  return new GraphQLError(ERRORS[code].publicMessage, { originalError: new AppError(code) });
}

export async function createGraphqlEndpoint(options: GraphqlOptions): Promise<GraphqlEndpoint> {
  const observations: Observations = new WeakMap();
  const apollo = createApollo(options, observations);
  await apollo.start();
  const server = new WebSocketServer({ noServer: true, maxPayload: socketFrameBytesMax, handleProtocols });
  const sockets = serveSockets(options, server);
  return {
    handle: (request, response) => serveHttp({ apollo, observations }, options, request, response),
    get sockets() {
      return server.clients.size;
    },
    handleUpgrade: (request, socket, head) => {
      if (server.clients.size >= socketsMax) {
        socket.end('HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 0\r\n\r\n');
        return;
      }
      server.handleUpgrade(request, socket, head, (client: WebSocket) => server.emit('connection', client, request));
    },
    stop: async () => {
      await sockets.dispose();
      await apollo.stop();
    },
  };
}
