/** A node in a thread of its own, so that its processor time is not mixed with that of clients and servers. */
import { parentPort, workerData } from 'node:worker_threads';
import { startPipelineNode, type TestConfiguration } from '../data-plane/pipeline-node.ts';

const node = await startPipelineNode(workerData as TestConfiguration);
/** Each message asks for the microseconds of processor time that the thread has taken so far. */
parentPort?.on('message', () => {
  const { user, system } = process.threadCpuUsage();
  parentPort?.postMessage(user + system);
});
parentPort?.postMessage(node.port);
