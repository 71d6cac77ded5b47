// Not compiled here: see README.md.
package org.u2slim

import android.graphics.Color
import android.graphics.ImageDecoder
import android.net.Uri
import android.os.Bundle
import android.widget.Button
import android.widget.ImageView
import android.widget.LinearLayout
import androidx.activity.ComponentActivity
import androidx.activity.result.PickVisualMediaRequest
import androidx.activity.result.contract.ActivityResultContracts.PickVisualMedia
import java.util.concurrent.Executors

class MainActivity : ComponentActivity() {
    private val worker = Executors.newSingleThreadExecutor()
    private val cutter by lazy { Cutter(applicationContext) }
    private lateinit var view: ImageView
    private val choose = registerForActivityResult(PickVisualMedia()) { photo -> photo?.let(::show) }

    override fun onCreate(state: Bundle?) {
        super.onCreate(state)
        view = ImageView(this).apply { setBackgroundColor(Color.rgb(0, 160, 120)) }
        val button = Button(this).apply {
            text = "Choose a photo"
            setOnClickListener { choose.launch(PickVisualMediaRequest(PickVisualMedia.ImageOnly)) }
        }
        setContentView(LinearLayout(this).apply {
            orientation = LinearLayout.VERTICAL
            addView(view, LinearLayout.LayoutParams(-1, 0, 1f))
            addView(button)
        })
    }

    private fun show(uri: Uri) = worker.execute {
        // The decoder turns a photo upright; ARGB_8888 in memory of the program's own, so that pixels can be read.
        val photo = ImageDecoder.decodeBitmap(ImageDecoder.createSource(contentResolver, uri)) { decoder, info, _ ->
            decoder.allocator = ImageDecoder.ALLOCATOR_SOFTWARE
            val side = maxOf(info.size.width, info.size.height)
            if (side > 2048) decoder.setTargetSampleSize((side + 2047) / 2048)
        }
        val made = cutter.cut(photo)
        runOnUiThread { view.setImageBitmap(made) }
    }

    override fun onDestroy() {
        worker.execute { cutter.close() }
        worker.shutdown()
        super.onDestroy()
    }
}
