import { createServer } from 'node:net';

const loopback = '127.0.0.1';

/** A port of the loopback interface that was free a moment ago. */
export function freePort(): Promise<number> {
  return listenOnce(0);
}

/** Whether the port of the loopback interface can be listened on now. */
export async function isPortFree(port: number): Promise<boolean> {
  return listenOnce(port).then(
    () => true,
    () => false,
  );
}

function listenOnce(port: number): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer();
    server.once('error', reject);
    server.listen(port, loopback, () => {
      const address = server.address();
      server.close(() => resolve(typeof address === 'object' && address !== null ? address.port : port));
    });
  });
}
