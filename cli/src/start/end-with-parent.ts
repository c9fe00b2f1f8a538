import { Server } from 'node:net';

/**
 * Loaded with `node --import` before an example server that is not ours. It ends the process when the parent's IPC
 * channel closes, and keeps every listener on the loopback interface: the program itself would listen on all of them.
 */
process.once('disconnect', () => process.exit(0));
process.once('SIGTERM', () => process.exit(0));

const loopback = '127.0.0.1';
// oxlint-disable-next-line typescript/unbound-method -- called with its own `this` below
const listen = Server.prototype.listen;

function listenOnLoopback(this: Server, port: unknown, ...rest: readonly unknown[]): Server {
  const callback = rest.findLast((value): value is () => void => typeof value === 'function');
  return listen.call(this, { port: Number(port), host: loopback }, callback);
}
Server.prototype.listen = listenOnLoopback;
