/** npm run build: install what is missing, compile to dist/. */
import { build, install } from './tools.mjs';

process.exit(install() && build() ? 0 : 1);
