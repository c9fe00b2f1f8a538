import { Worker } from 'node:worker_threads';

/**
 * A thread that runs a module beside the caller's: from the sources, where those run, else from what was built of them.
 * The process may end while nobody listens to it.
 * @param base `import.meta.url` of the caller
 * @param name of the module without its ending, such as `scan-worker`; the system shows the thread under it
 * @param data for its `workerData`
 */
export function startWorker(base: string, name: string, memoryMiBMax: number, data?: object): Worker {
  const isSource = base.endsWith('.ts');
  const worker = new Worker(new URL(`./${name}.${isSource ? 'ts' : 'js'}`, base), {
    name,
    workerData: data,
    execArgv: isSource ? ['--conditions=@sallyport/source'] : [],
    resourceLimits: { maxOldGenerationSizeMb: memoryMiBMax },
  });
  worker.unref();
  return worker;
}
