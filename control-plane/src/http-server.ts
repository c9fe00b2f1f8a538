import { readFileSync } from 'node:fs';
import {
  createServer as createHttpServer,
  type IncomingMessage,
  type RequestListener,
  type Server,
  type ServerResponse,
} from 'node:http';
import { createServer as createTlsServer } from 'node:https';
import type { AddressInfo } from 'node:net';
import type { Duplex } from 'node:stream';
import { apiRoutes, type ErrorCode, ERRORS, type RouteMethod, routeMatcher } from '@sallyport/schema';
import type { ControlPlaneConfig } from './config.ts';

const requestTimeoutMs = 30_000;
const headersTimeoutMs = 10_000;
const headerBytesMax = 16 * 1024;
/** Nodes, subscriptions and requests together. */
const connectionsMax = 10_000;

type Routes = typeof apiRoutes;
type RouteName = keyof Routes;
type MethodsOf<Name extends RouteName> = Routes[Name]['methods'][number];
type RequestRoute = {
  [Name in RouteName]: Exclude<MethodsOf<Name>, 'UPGRADE'> extends never ? never : Name;
}[RouteName];
type UpgradeRoute = { [Name in RouteName]: 'UPGRADE' extends MethodsOf<Name> ? Name : never }[RouteName];

/** Answers every request; must not reject. The method is one of the row's. */
type RequestHandler = (request: IncomingMessage, response: ServerResponse) => Promise<void>;
type UpgradeHandler = (request: IncomingMessage, socket: Duplex, head: Buffer) => void;

/** A handler for each row of `apiRoutes`; there is no other way to serve a path. */
export interface ApiHandlers {
  readonly requests: Readonly<Record<RequestRoute, RequestHandler>>;
  readonly upgrades: Readonly<Record<UpgradeRoute, UpgradeHandler>>;
}

const matchRoute = routeMatcher<RouteName>(apiRoutes);

function pathOf(request: IncomingMessage): string {
  return (request.url ?? '').split('?')[0] ?? '';
}

function refuse(response: ServerResponse, code: ErrorCode, headers: Readonly<Record<string, string>> = {}): void {
  const error = { message: ERRORS[code].publicMessage, extensions: { code } };
  response.writeHead(ERRORS[code].http, {
    'content-type': 'application/json',
    'cache-control': 'no-store',
    ...headers,
  });
  response.end(JSON.stringify({ errors: [error] }));
}

function isRequestRoute(handlers: ApiHandlers, name: RouteName): name is RequestRoute {
  return Object.hasOwn(handlers.requests, name);
}

function isUpgradeRoute(handlers: ApiHandlers, name: RouteName): name is UpgradeRoute {
  return Object.hasOwn(handlers.upgrades, name);
}

function serve(handlers: ApiHandlers, request: IncomingMessage, response: ServerResponse): void {
  const match = matchRoute(pathOf(request));
  if (match === undefined || !isRequestRoute(handlers, match.name)) return refuse(response, 'NOT_FOUND');
  const { methods } = match.route;
  if (!methods.includes(request.method as RouteMethod)) {
    return refuse(response, 'METHOD_NOT_ALLOWED', { allow: methods.filter((one) => one !== 'UPGRADE').join(', ') });
  }
  void handlers.requests[match.name](request, response);
}

function upgrade(handlers: ApiHandlers, request: IncomingMessage, socket: Duplex, head: Buffer): void {
  socket.on('error', () => socket.destroy());
  const match = matchRoute(pathOf(request));
  if (match !== undefined && isUpgradeRoute(handlers, match.name)) {
    handlers.upgrades[match.name](request, socket, head);
    return;
  }
  socket.end('HTTP/1.1 404 Not Found\r\nConnection: close\r\nContent-Length: 0\r\n\r\n');
}

/** The API port: requests and upgrades, each dispatched by `apiRoutes`. */
export async function listen(config: ControlPlaneConfig, handlers: ApiHandlers): Promise<Server> {
  const limits = { requestTimeout: requestTimeoutMs, headersTimeout: headersTimeoutMs, maxHeaderSize: headerBytesMax };
  const onRequest: RequestListener = (request, response) => serve(handlers, request, response);
  const server: Server =
    config.tls === undefined
      ? createHttpServer(limits, onRequest)
      : createTlsServer(
          { ...limits, cert: readFileSync(config.tls.certFile), key: readFileSync(config.tls.keyFile) },
          onRequest,
        );
  server.maxConnections = connectionsMax;
  server.on('upgrade', (request: IncomingMessage, socket: Duplex, head: Buffer) =>
    upgrade(handlers, request, socket, head),
  );
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(config.listen.port, config.listen.host, resolve);
  });
  return server;
}

export function listenUrl(server: Server, scheme: string, host: string): string {
  const address = server.address() as AddressInfo;
  return `${scheme}://${host.includes(':') ? `[${host}]` : host}:${address.port}`;
}

/** Takes no new requests, waits for the open ones, cuts what is left at the deadline. */
export async function closeHttp(server: Server, drainTimeoutMs: number): Promise<void> {
  const closed = new Promise<void>((resolve) => server.close(() => resolve()));
  server.closeIdleConnections();
  const deadline = setTimeout(() => server.closeAllConnections(), drainTimeoutMs);
  await closed;
  clearTimeout(deadline);
}
