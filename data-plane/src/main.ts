import { applyV8Options, boundHeapGrowth, putCollectorsBehind } from './v8-options.ts';

applyV8Options();
boundHeapGrowth();
putCollectorsBehind();
// Not before: all of the program would be loaded twice.
const { runProgram } = await import('./program.ts');
await runProgram({ out: (line) => console.log(line), error: (what) => console.error(what) });
