import { createServer } from 'node:http';
import { type ControlPlaneMessage, type NodeMessage, syncPath } from '@sallyport/schema';
import { WebSocket, WebSocketServer } from 'ws';

/** What passed through, in order. */
export interface Passed {
  readonly down: ControlPlaneMessage[];
  readonly up: NodeMessage[];
  bytesDown: number;
}

export interface SyncProxy {
  readonly url: string;
  readonly passed: Passed;
  /** Forgets what passed. */
  reset(): void;
  /** Where new connections go. */
  target: string;
  /** Returns false to swallow a message; may look, must not change. */
  passUp: (message: NodeMessage) => boolean;
  /** Returns what to send to the node instead of a message. */
  passDown: (message: ControlPlaneMessage) => ControlPlaneMessage | undefined;
  /** Cuts every connection; new ones may follow. */
  cut(): void;
  stop(): Promise<void>;
}

/** A man in the middle of the sync protocol: counts, withholds, alters. */
export async function startSyncProxy(target: string): Promise<SyncProxy> {
  const server = new WebSocketServer({ noServer: true });
  const http = createServer();
  http.on('upgrade', (request, socket, head) =>
    server.handleUpgrade(request, socket, head, (node) => connect(node, proxy)),
  );
  const port = await new Promise<number>((resolve) =>
    http.listen(0, '127.0.0.1', () => {
      const address = http.address();
      resolve(typeof address === 'object' && address !== null ? address.port : 0);
    }),
  );
  const passed: Passed = { down: [], up: [], bytesDown: 0 };
  const proxy: SyncProxy = {
    url: `ws://127.0.0.1:${port}${syncPath}`,
    passed,
    reset: () => {
      passed.down.length = 0;
      passed.up.length = 0;
      passed.bytesDown = 0;
    },
    target,
    passUp: () => true,
    passDown: (message) => message,
    cut: () => server.clients.forEach((client) => client.terminate()),
    stop: async () => {
      proxy.cut();
      server.close();
      http.closeAllConnections();
      await new Promise((resolve) => http.close(resolve));
    },
  };
  return proxy;
}

function connect(node: WebSocket, proxy: SyncProxy): void {
  const upstream = new WebSocket(proxy.target);
  const waiting: string[] = [];
  upstream.on('open', () => waiting.splice(0).forEach((text) => upstream.send(text)));
  node.on('message', (data: Buffer) => {
    const message = JSON.parse(data.toString()) as NodeMessage;
    proxy.passed.up.push(message);
    if (!proxy.passUp(message)) return;
    if (upstream.readyState === WebSocket.OPEN) upstream.send(data.toString());
    else waiting.push(data.toString());
  });
  upstream.on('message', (data: Buffer) => {
    const message = proxy.passDown(JSON.parse(data.toString()) as ControlPlaneMessage);
    if (message === undefined) return;
    const text = JSON.stringify(message);
    proxy.passed.down.push(message);
    proxy.passed.bytesDown += text.length;
    node.send(text);
  });
  for (const [from, to] of [
    [node, upstream],
    [upstream, node],
  ] as const) {
    from.on('error', () => to.terminate());
    from.on('close', () => (to.readyState === WebSocket.CONNECTING ? to.terminate() : to.close()));
  }
}
