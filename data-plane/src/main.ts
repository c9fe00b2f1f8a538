import { applyV8Options } from './v8-options.ts';

applyV8Options();
// Not before: all of the program would be loaded twice.
const { runProgram } = await import('./program.ts');
await runProgram({ out: (line) => console.log(line), error: (what) => console.error(what) });
