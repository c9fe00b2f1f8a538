import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { collectDefaultMetrics, type Registry } from 'prom-client';
import { operationsRoutes, type RouteMethod, routeMatcher } from '../http-routes.ts';

export interface Readiness {
  readonly ready: boolean;
  /** Why not, for the operator; no secrets and no names of customers' objects. */
  readonly reasons: readonly string[];
}

export interface OperationsOptions {
  readonly host: string;
  /** 0 for any free one. */
  readonly port: number;
  readonly registry: Registry;
  readonly ready: () => Readiness | Promise<Readiness>;
}

export interface OperationsServer {
  readonly url: string;
  close(): Promise<void>;
}

const requestTimeoutMs = 10_000;
const headerBytesMax = 8 * 1024;

/**
 * `/metrics` (Prometheus), `/healthz` (the process turns) and `/readyz` (it should get traffic; 503 with reasons) on a
 * port of its own. Does no authentication: bind it where only operators and orchestrators reach it.
 */
export async function startOperationsServer(options: OperationsOptions): Promise<OperationsServer> {
  collectDefaultMetrics({ register: options.registry });
  const server = createServer(
    { requestTimeout: requestTimeoutMs, maxHeaderSize: headerBytesMax },
    (request, response) => {
      answer(options, request, response).catch(() => {
        if (!response.headersSent) response.writeHead(500);
        response.end();
      });
    },
  );
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(options.port, options.host, resolve);
  });
  const { port } = server.address() as AddressInfo;
  const host = options.host.includes(':') ? `[${options.host}]` : options.host;
  return {
    url: `http://${host}:${port}`,
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
}

const matchRoute = routeMatcher<keyof typeof operationsRoutes>(operationsRoutes);

async function answer(options: OperationsOptions, request: IncomingMessage, response: ServerResponse): Promise<void> {
  const match = matchRoute(request.url?.split('?')[0] ?? '');
  if (match === undefined) return send(response, 404, 'text/plain', 'not found\n');
  if (!match.route.methods.includes(request.method as RouteMethod)) {
    return send(response, 405, 'text/plain', `${match.route.methods.join(', ')} only\n`);
  }
  switch (match.name) {
    case 'metrics':
      return send(response, 200, options.registry.contentType, await options.registry.metrics());
    case 'healthz':
      return send(response, 200, 'text/plain', 'ok\n');
    case 'readyz': {
      const { ready, reasons } = await options.ready();
      return send(response, ready ? 200 : 503, 'application/json', `${JSON.stringify({ ready, reasons })}\n`);
    }
    default:
      return match.name satisfies never;
  }
}

function send(response: ServerResponse, status: number, type: string, body: string): void {
  response.writeHead(status, { 'content-type': type, 'cache-control': 'no-store' }).end(body);
}
